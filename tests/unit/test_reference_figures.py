"""The figures of the model cards, on candidates made by hand."""

import pytest

from workers.reference import cards, figures
from workers.reference.figures import Candidate, Sampled
from workers.reference.synthetic import Query

QUERY = Query("x", "test", "easy", "?", "5", ("2 + 3 = 5",))


def candidate(answer: str, *scores: float) -> Candidate:
    """A candidate of one step that ends in this answer."""
    return Candidate(f"2 + 3 = {answer}\n#### {answer}", 10, scores)


@pytest.mark.parametrize(
    ("answers", "taken"),
    [
        ("5555", 4),
        ("555", 3),
        ("155555", 6),
        ("5555551", 4),
        ("1555555", 7),
        ("15151515", 8),
        ("1234", 4),
    ],
)
def test_beta_stops_when_the_lead_is_certain(answers: str, taken: int) -> None:
    """Four alike are enough, six to one are, three alike or five to one are not."""
    assert figures.beta_stop([candidate(answer) for answer in answers]) == taken


def test_choices() -> None:
    """Votes, summed scores and the one best score may each choose another answer."""
    candidates = [
        candidate("1", 0.1, 0.2),
        candidate("1", 0.1, 0.2),
        candidate("1", 0.1, 0.1),
        candidate("2", 0.9, 0.7),
        candidate("2", 0.9, 0.6),
        candidate("3", 0.1, 0.8),
    ]
    assert figures.majority(candidates) == "1"
    assert figures.weighted(candidates) == "2"
    assert figures.best(candidates) == "3"


def test_a_tie_goes_to_the_higher_scores() -> None:
    """One vote each: the score decides."""
    assert figures.majority([candidate("1", 0.2), candidate("2", 0.9)]) == "2"


def test_candidates_without_an_answer_do_not_vote() -> None:
    """Nothing is chosen where nobody answered."""
    silent = Candidate("2 + 3", 4, (0.9,))
    assert figures.majority([silent, silent]) is None
    assert figures.majority([silent, silent, candidate("7", 0.1)]) == "7"


def test_auc_counts_pairs() -> None:
    """Three of four pairs in order, and half for a tie."""
    assert figures.auc([0.9, 0.4], [0.5, 0.1]) == pytest.approx(0.75)
    assert figures.auc([0.5], [0.5]) == pytest.approx(0.5)


def test_auc_needs_both_sides() -> None:
    """Nothing can be told apart where all is right."""
    with pytest.raises(ValueError, match="Both right and wrong"):
        figures.auc([0.1], [])


def test_search_figures() -> None:
    """Shares of queries, of tokens, and how well steps are told apart."""
    sampled = [Sampled(QUERY, [candidate("5", 0.9, 0.9), *[candidate("6", 0.1, 0.2)] * 4])]
    found = figures.search_figures(sampled)
    assert found["single"] == pytest.approx(0.2)
    assert (found["majority"], found["weighted"], found["best"], found["pass"]) == (0, 1, 1, 1)
    assert found["step_auc"] == 1
    assert found["tokens"] == 10
    assert found["beta_tokens"] == 1


def test_cards_show_every_figure() -> None:
    """Kinds of queries stand in columns, all else in a line of its own."""
    table = cards.figures_table(
        {"easy": {"single": 0.9, "tokens": 31.2}, "plan": {"valid": 0.99}}, "How."
    )
    assert table.splitlines() == [
        "How.",
        "",
        "| | easy |",
        "|---|---|",
        "| single | 0.900 |",
        "| tokens | 31 |",
        "",
        "plan: valid 0.990.",
    ]
