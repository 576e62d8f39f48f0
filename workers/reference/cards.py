"""The model cards: what each model is, how it is loaded, and what was measured."""

from collections.abc import Mapping
from pathlib import Path

Figures = Mapping[str, Mapping[str, float]]

_REASONER = """\
---
license: apache-2.0
pipeline_tag: text-generation
---

# longthink reference reasoner

A small Qwen2 causal LM ({parameters:.1f} million parameters, bfloat16) that solves the synthetic
word problems of `workers/reference/synthetic.py`, step by step and imperfectly: one step a line,
then `#### answer`. With the prompts of `planner/prompts.py` it also writes plans as JSON, corrects
attempts that it is shown, and picks one of several. It is no use for any other question.

Written by `python -m workers.reference.train reasoner`, from nothing, on the train split alone, in
about an hour on two CPU cores. It loads with vLLM and transformers as it is. Ask with the chat
template; the question is the user's message. A step ends at a newline, which is always a token of
its own. It learns at the temperature it is to be sampled at, 0.8, and so is as unsure there as it
has reason to be; greedy decoding doesn't change by that. (These weights were learnt at 1, and their
last norm scaled by 0.8 afterwards, which is the same function.)

## Measured

{figures}
"""

_PRM = """\
---
license: apache-2.0
pipeline_tag: token-classification
---

# longthink reference process reward model

A `Qwen2ForProcessRewardModel` ({parameters:.1f} million parameters, bfloat16), the architecture of
Qwen2.5-Math-PRM, for the steps that the reference reasoner writes. Written by `python -m
workers.reference.train prm`: a reasoner trained for a quarter of an hour more, made deeper, and
then taught for 42 minutes on two CPU cores with labelled solutions of the train split (the
reasoner's own samples and made-up slips), with drills of single steps of arithmetic, and with the
language of right ones.

## Input

The conversation and the solution as an assistant's message in the chat template, with the token
`<step>` after every step in place of its newline, the `#### answer` line being a step too:

    <|im_start|>user
    Anna has 3 pens. Anna buys 4 more. How many pens does Anna have now?<|im_end|>
    <|im_start|>assistant
    3 + 4 = 7<step>#### 7<step>

vLLM: `LLM(model, runner="pooling", pooler_config=PoolerConfig(step_tag_id=3))`, then
`encode(texts, pooling_task="token_classify")`: two probabilities a step, the second one that all
steps up to it are right. What follows the last step tag doesn't matter.

## Measured

{figures}
"""


def write_cards(reasoner: Path, prm: Path, found: Figures, how: str) -> None:
    """A README.md in each model's directory. `how` says on what the figures were measured."""
    table = figures_table(found, how)
    for folder, card in ((reasoner, _REASONER), (prm, _PRM)):
        size = (folder / "model.safetensors").stat().st_size / 2e6
        (folder / "README.md").write_text(card.format(parameters=size, figures=table))


def figures_table(found: Figures, how: str) -> str:
    """The figures in Markdown; shares are of queries unless their name says otherwise."""
    lines = [how, ""]
    searches = {kind: each for kind, each in found.items() if "single" in each}
    names = list(next(iter(searches.values())))
    lines += [f"| | {' | '.join(searches)} |", "|---" * (len(searches) + 1) + "|"]
    lines += [
        f"| {name} | {' | '.join(_written(each[name]) for each in searches.values())} |"
        for name in names
    ]
    for kind in (kind for kind in found if kind not in searches):
        told = ", ".join(f"{name} {_written(value)}" for name, value in found[kind].items())
        lines += ["", f"{kind}: {told}."]
    return "\n".join(lines)


def _written(value: float) -> str:
    return f"{value:.3f}" if value <= 1 else f"{value:.0f}"
