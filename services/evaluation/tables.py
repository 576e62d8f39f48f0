"""Reads tables in Parquet, the form in which many data sets are published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.errors import InvalidOption


def parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file in their order, counted from 1. Raises InvalidOption if it can't be read.

    Columns of other than plain values come as DuckDB gives them.
    """
    import duckdb  # noqa: PLC0415 - 60 MB that only such files need

    try:
        with duckdb.connect(":memory:") as connection:
            table = connection.read_parquet(str(path))
            for place, row in enumerate(table.fetchall(), 1):
                yield place, dict(zip(table.columns, row, strict=True))
    except duckdb.Error as error:
        raise InvalidOption(f"{path}: isn't a table in Parquet: {error}") from error
