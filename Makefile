# Everything that people, and machines on their behalf, do with this checkout. `make` lists it.

VENV := .venv
BIN := $(VENV)/bin
# The first of these that is a Python 3.11; set-up says so when there is none.
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

FAST_TESTS := $(wildcard tests/unit tests/contract)
SLOW_TESTS := $(foreach folder,integration chaos e2e,$(if $(wildcard tests/$(folder)/test_*.py),tests/$(folder)))
# More for pytest, such as PYTEST="-k ledger -x".
PYTEST ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve check lint types layers pins fast-tests browser test chaos bench clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build .venv from the pinned requirements, once for each state of the pins
	@test -n "$(PYTHON)" || { echo "set-up: no Python 3.11 is on the PATH as python3.11, python3 or \
	python: install it, or name it with make $@ PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) deploy/environment.py

demo: setup ## start the service on this machine and answer two questions before your eyes
	@$(BIN)/longthink demo

serve: setup ## start the service on this machine, until Ctrl-C
	@$(BIN)/longthink serve

check: lint types layers pins fast-tests ## what to run before each commit: all but the slow tests

browser: setup
	@$(BIN)/python deploy/browser.py

test: check browser ## every check and every test
	@# Each folder starts a Ray of its own, of which a process can have but one.
	set -e; for folder in $(SLOW_TESTS); do \
		$(BIN)/python -m pytest --timeout=300 $(PYTEST) $$folder; done

lint: setup ## style: ruff's formatter and linter
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: setup ## types: mypy, strict, tests included
	$(BIN)/mypy

layers: setup ## layers: who may import whom
	$(BIN)/lint-imports

pins: setup ## pins: what is installed is what is pinned, and what is pinned is enough
	$(BIN)/python deploy/pins.py check

fast-tests: setup
	$(BIN)/python -m pytest $(PYTEST) $(FAST_TESTS)

chaos: setup ## break it for real, in full: what was asked and what was seen, in one table
	$(BIN)/python -m tests.chaos

bench: setup ## measure: the path, the pool, the ledger, the planner, plans, the KV cache, spans, the simulator
	set -e; for name in $(basename $(notdir $(wildcard tests/bench/*.py))); do \
		$(BIN)/python -m tests.bench.$$name; done

clean: ## remove the environment, the caches and what was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find planner workers services deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +
