"""`longthink eval`: strategies against each other, on the same questions."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import Assignments, Profile, Url


class Format(StrEnum):
    """How the rows are printed."""

    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


def evaluate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results are kept.")],
    split: Annotated[
        str | None,
        typer.Option(
            help="Synthetic questions: easy, hard or compound; dev/hard and the like; several with "
            "commas between them, which the report has together and one by one."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="F.jsonl",
            help='Questions of your own, {"question", "answer"} a line; or GSM8K, MATH-500 or AIME '
            "as they are published. CSV and Parquet will do as well.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ID[:PART]",
            help="The same from the Hugging Face Hub, as in openai/gsm8k: its test questions, or "
            "those files with PART in their path.",
        ),
    ] = None,
    strategies: Annotated[
        # In help, what stands in brackets is markup but for the backslash.
        str | None,
        typer.Option(
            help=r"What to compare, each as strategy\[/selector]\[@stop], with a strategy inside "
            "it in brackets, as in plan(beam)/weighted. single, majority and best_of_n where "
            "neither this nor --efforts is given."
        ),
    ] = None,
    efforts: Annotated[
        str | None,
        typer.Option(
            metavar="WORD[,WORD…]",
            help="Words of reasoning_effort to compare, none to max: no strategy is named then, "
            "the service's own presets decide.",
        ),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N…]",
            help="How many candidates (budget.candidates of a request), one or several. 16 where "
            "neither this nor --budgets nor --deadlines is given.",
        ),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N…]",
            help="How many candidates' worth of completion tokens, for equal costs: a request gets "
            "budget.completion_tokens of N times a single sample's mean; and budget.candidates of "
            "4 N where the strategy goes on until that is used up (majority, best_of_n, mcts, "
            "ab_mcts, refine, plan, least_to_most, atoms, auto), of N where it fits its width to "
            "that (beam, dvts, rebase, particles), else of N times --width. N = 1 is one candidate "
            "without a limit on its tokens. `single` is measured first, to know the mean.",
        ),
    ] = None,
    deadlines: Annotated[
        str | None,
        typer.Option(
            metavar="S[,S…]",
            help="How many seconds a request may take (budget.deadline_seconds), one or several, "
            "for each strategy and effort; without a number of candidates, as many as the service "
            "has by itself.",
        ),
    ] = None,
    tokens_per_candidate: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="TOKENS", help="With --budgets: that mean, not to be measured first."
        ),
    ] = None,
    width: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=4,
            metavar="SHARE",
            help="With --budgets: the candidates of a strategy that plans for a number of them "
            "(recursive, budget_forcing), as a share of N. Below 1 leaves it room for questions "
            "whose solutions are longer than the mean.",
        ),
    ] = 0.75,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="So many questions: 300 of each split, else all."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the questions, and seeds the requests.")] = 0,
    temperature: Annotated[float, typer.Option(help="How freely candidates are sampled.")] = 0.8,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Length of one candidate at most.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, metavar="C", help="So many questions at a time.")
    ] = 8,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Fit what confidence means on all outcomes in DIR, into DIR/calibration.json "
            "(name it in service.calibration of a profile), and into Redis where redis.url or "
            "REDIS_URL names one.",
        ),
    ] = False,
    format: Annotated[Format, typer.Option(help="How the rows are printed.")] = Format.TABLE,  # noqa: A002
    url: Url = None,
    profile: Profile = None,
    assignments: Assignments = None,
) -> None:
    """Measure strategies on the same questions; the same command goes on where it was stopped.

    DIR gets results.jsonl, a line a reply; report.md, the table with who beats whom, and
    report.json; and accuracy.png and accuracy.svg, accuracy against completion tokens. Other
    strategies, or other numbers, that are measured into the same DIR join those that are there.
    """
    from rich.console import Console  # noqa: PLC0415 - quick help

    from services.cli.measuring import in_json, measure, show, store  # noqa: PLC0415
    from services.cli.running import own_output, service  # noqa: PLC0415
    from services.evaluation.plan import Plan  # noqa: PLC0415
    from services.profiles import load  # noqa: PLC0415

    plan = Plan.of(
        split=split,
        file=file,
        dataset=dataset,
        strategies=strategies,
        efforts=efforts,
        candidates=candidates,
        budgets=budgets,
        deadlines=deadlines,
        tokens=tokens_per_candidate,
        width=width,
        limit=limit,
        seed=seed,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    redis_url = load(profile, assignments or ()).redis.url if calibrate else None
    told = Console(stderr=True)
    try:
        with own_output() as output:
            with service(url, profile, assignments or (), told) as address:
                measured = asyncio.run(
                    measure(address, plan, out, concurrency, told, calibrating=calibrate)
                )
            text = measured.publish()
            if measured.fitted is not None and redis_url is not None:
                asyncio.run(store(measured.fitted.calibration, redis_url))
            match format:
                case Format.TABLE:
                    show(measured, Console(file=output))
                case Format.JSON:
                    output.write(in_json(measured) + "\n")
                case Format.MARKDOWN:
                    output.write(text)
    except KeyboardInterrupt:
        told.print("Interrupted: the same command goes on from here.", style="yellow")
        raise typer.Exit(130) from None
    if calibrate and measured.fitted is None:
        told.print("No reply has an answer, so there is nothing to calibrate.", style="yellow")
    for line in measured.amiss():
        told.print(line, style="yellow", markup=False, highlight=False)
    if measured.errors:
        raise typer.Exit(1)
