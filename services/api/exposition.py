"""One Prometheus text out of many: one of each edge and one of each engine replica.

Prometheus wants all samples of a metric together under one header, so families are merged by name;
what an edge says is told apart by the label `edge`, and what an engine's replica says by the label
`replica`. The first header of a family stands. A line that isn't a sample is left out, as one such
line would cost the whole scrape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?(?P<value> \S+(?: -?\d+)?)"
)
_HEADERS = ("HELP", "TYPE")


@dataclass(slots=True)
class _Family:
    headers: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def merge(edges: Iterable[tuple[str, str]], replicas: Iterable[tuple[str, str]]) -> str:
    """The (edge, text) and the (replica, text) pairs as one text; an edge may have no name."""
    families: dict[str, _Family] = {}
    for label, told in (("edge", edges), ("replica", replicas)):
        for name, text in told:
            _read(text, f'{label}="{_escaped(name)}"' if name else "", families)
    return "".join(
        f"{line}\n"
        for family in families.values()
        for line in (*family.headers.values(), *family.samples)
    )


def _read(text: str, label: str, families: dict[str, _Family]) -> None:
    current = ""
    for line in text.split("\n"):
        words = line.split(" ", 3)
        if words[0] == "#" and len(words) > 2 and words[1] in _HEADERS:
            current = words[2]
            families.setdefault(current, _Family()).headers.setdefault(words[1], line)
        elif sample := _SAMPLE.fullmatch(line):
            name = sample["name"]
            # The buckets, sums and counts of a family are named after it.
            family = current if current and name.startswith(current) else name
            families.setdefault(family, _Family()).samples.append(_labelled(sample, label))


def _labelled(sample: re.Match[str], label: str) -> str:
    labels = ",".join(filter(None, [label, sample["labels"]]))
    return f"{sample['name']}{{{labels}}}{sample['value']}" if labels else sample[0]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
