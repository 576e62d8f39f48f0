"""The reasoner's own attempts at train queries, for the PRM to learn from."""

import json
from pathlib import Path

from workers.reference.learn_prm import Sampled, practice_queries
from workers.reference.lessons import ask
from workers.reference.sampling import Sampler, Sampling


def sample_attempts(
    reasoner: Path, count: int, how: Sampling, seed: int, keep: Path
) -> list[Sampled]:
    """The reasoner's attempts at `count` train queries, kept in a file for another time."""
    drawn = practice_queries(count, seed)
    if keep.exists():
        texts = [json.loads(line) for line in keep.read_text().splitlines()]
    else:
        replies = Sampler(reasoner, seed).sample([ask(query.question) for query in drawn], how)
        texts = [[reply.text for reply in each] for each in replies]
        keep.write_text("".join(json.dumps(each) + "\n" for each in texts))
    return [Sampled(query, each) for query, each in zip(drawn, texts, strict=True)]
