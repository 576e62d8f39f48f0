"""Fetches the questions of a data set on the Hugging Face Hub.

Written `owner/name`, or `owner/name:part` where the set has several: only files whose path has
`part` in it. Without it the test questions are taken where a set says which those are, and of
several configurations the one named main or default. What was fetched once is kept where
huggingface_hub keeps it; HF_ENDPOINT and HF_TOKEN mean what they mean there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from httpx import HTTPError

from planner.errors import InvalidOption

_READABLE = (".jsonl", ".parquet", ".csv")
"""The first of them is taken where the same questions are there in several."""
_USUAL = ("main", "default")


def fetched(
    written: str, *, endpoint: str | None = None, cache: Path | None = None
) -> tuple[Path, ...]:
    """The files of a data set, on this machine. Raises InvalidOption where there are none.

    `endpoint` and `cache` are huggingface_hub's own where they are not named.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download  # noqa: PLC0415 - a second
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    name, _, part = written.partition(":")
    try:
        found = HfApi(endpoint).dataset_info(name)
        files = [sibling.rfilename for sibling in found.siblings or ()]
        return tuple(
            Path(
                hf_hub_download(
                    name,
                    file,
                    repo_type="dataset",
                    revision=found.sha,
                    endpoint=endpoint,
                    cache_dir=cache,
                )
            )
            for file in chosen(written, files, part)
        )
    except (HFValidationError, HTTPError, OSError) as error:
        told = str(error).strip().split("\n")[0]
        raise InvalidOption(
            f"--dataset {written}: can't be fetched from {endpoint or constants.ENDPOINT}: "
            f"{told} Fetch it by other means, and name the file with --file."
        ) from error


def chosen(written: str, files: Sequence[str], part: str) -> tuple[str, ...]:
    """Which of a data set's files have the questions, in the order of their names.

    Raises InvalidOption that lists them where it can't be told.
    """
    readable = sorted(file for file in files if file.endswith(_READABLE))
    if part:
        found = [file for file in readable if part in file]
    else:
        found = _usual([file for file in readable if "test" in file] or readable)
    folders = {PurePosixPath(file).parent for file in found}
    if not found or len(folders) > 1:
        there = ", ".join(readable) or f"none in {' or '.join(_READABLE)}"
        raise InvalidOption(
            f"--dataset {written}: name its questions as {written.partition(':')[0]}:PART, a part "
            f"of the path of one of its files, which are: {there}."
        )
    # The same questions in several forms are to be asked once.
    forms = [tuple(file for file in found if file.endswith(form)) for form in _READABLE]
    return next(form for form in forms if form)


def _usual(files: list[str]) -> list[str]:
    """Those in the folder that is meant where none is named; all where no folder is."""
    usual = [file for file in files if PurePosixPath(file).parent.name in _USUAL]
    return usual or files
