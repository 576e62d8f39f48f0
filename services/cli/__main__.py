"""`python -m services.cli` is the command `longthink`."""

from __future__ import annotations

from services.cli import main

main()
