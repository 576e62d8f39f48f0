"""A few steps of both trainings, and models that load as what they say they are."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from workers.reference import STEP_TAG, learn_prm, learn_reasoner, network, synthetic, tokens
from workers.reference.labels import drill_row, layout, row
from workers.reference.lessons import ask
from workers.reference.network import Reasoner, RewardModel
from workers.reference.optimise import Limit, Optimiser
from workers.reference.slips import wrong_attempt

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer built for few lessons."""
    return learn_reasoner.build_tokenizer(0, 400)


def few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the pool of examples small, so that a few steps take seconds."""
    monkeypatch.setattr("workers.reference.optimise._POOL", 16)


@pytest.mark.timeout(60)
def test_reasoner_learns(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few steps lower its loss on a solution, and transformers loads what is saved."""
    few_batches(monkeypatch)
    torch.manual_seed(0)
    trained = Reasoner(tokenizer)
    limit = Limit(examples=96)
    learn_reasoner.train(tokenizer, trained, limit, 0, CPU, lambda network: None)
    torch.manual_seed(0)
    query = synthetic.queries("train", "easy", 1, 1)[0]
    ids = torch.tensor([tokenizer.encode(tokens.prompt_text(ask(query.question)) + query.solution)])
    assert _loss(trained, ids) < 0.8 * _loss(Reasoner(tokenizer), ids)
    network.save(trained, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    with torch.no_grad():
        theirs, ours = loaded(ids).logits.float(), trained.logits(trained(ids))
    assert (theirs.argmax(-1) == ours.argmax(-1)).float().mean() > 0.9


@pytest.mark.timeout(60)
def test_prm_learns(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts out as the reasoner does, changes in a few steps, and is saved as a PRM."""
    few_batches(monkeypatch)
    torch.manual_seed(0)
    reasoner = Reasoner(tokenizer)
    prm = RewardModel(tokenizer)
    prm.grow_from(reasoner)
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        assert torch.allclose(prm(ids), reasoner(ids), atol=1e-4)
    learn_prm.train(tokenizer, prm, (), Limit(examples=8), 0, CPU, lambda network: None)
    with torch.no_grad():
        assert not torch.allclose(prm(ids), reasoner(ids), atol=1e-2)
    network.save(prm, tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForProcessRewardModel"]
    assert {"score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias"} <= load_file(
        tmp_path / "model.safetensors"
    ).keys()


def test_labels_end_where_a_solution_goes_wrong(tokenizer: PreTrainedTokenizerFast) -> None:
    """Tokens are right up to the one that rules the answer out; none after it is."""
    query = synthetic.Query("x", "train", "easy", "?", "18", ("12 + 3 = 15", "15 + 3 = 18"))
    made = row(tokenizer, query, ["12 + 3 = 17\n17 + 3 = 20\n#### 20"])
    words = tokenizer.convert_ids_to_tokens(list(made.ids[made.starts[0] :]))
    first_wrong = words.index("7")
    assert made.labels == [int(place < first_wrong) for place in range(len(words))]
    assert words.count(STEP_TAG) == 3


def test_solutions_in_one_row_do_not_see_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    """A solution beside others is read as it is alone."""
    query = synthetic.queries("train", "easy", 1, 4)[0]
    alone = row(tokenizer, query, [query.solution])
    beside = row(tokenizer, query, ["1 + 1 = 2\n#### 2", query.solution])
    torch.manual_seed(0)
    prm = RewardModel(tokenizer, layers=2)
    with torch.no_grad():
        first = prm(*layout([alone], 0))[0, alone.starts[0] :]
        second = prm(*layout([beside], 0))[0, beside.starts[1] :]
    assert torch.allclose(first, second, atol=1e-4)


def test_tokens_respect_steps(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Newlines and digits stand alone, any text comes back, and it loads by its directory."""
    network.save(Reasoner(tokenizer, layers=1), tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "12 + 3 = 15\n\n#### 15 héllo 漢字\t$a.\n"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    words = loaded.tokenize(text)
    assert all(word == "Ċ" or "Ċ" not in word for word in words)
    assert all(len(word) == 1 for word in words if any(c.isdigit() for c in word))
    whole = loaded.encode("12 + 3 = 15\n#### 15")
    assert whole == loaded.encode("12 + 3 = 15\n") + loaded.encode("#### 15")


def test_chat_template_matches(tokenizer: PreTrainedTokenizerFast) -> None:
    """The prompts that training builds are those of the chat template."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How many?"},
    ]
    assert tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    ) == tokens.prompt_text(messages)


def test_a_wrong_attempt_gets_a_wrong_label(tokenizer: PreTrainedTokenizerFast) -> None:
    """The last tag of a wrong attempt is wrong, that of the right solution right."""
    rng = random.Random(0)
    for query in synthetic.queries("train", "practice", 30, 9):
        made = row(tokenizer, query, [query.solution])
        assert all(made.labels)
        assert row(tokenizer, query, ["\n".join(wrong_attempt(query, rng))]).labels[-1] == 0


def test_drills_are_labelled_by_their_arithmetic(tokenizer: PreTrainedTokenizerFast) -> None:
    """The tag after a drill says whether it is right, and both kinds are drawn."""
    made = drill_row(tokenizer, random.Random(3))
    text = str(tokenizer.decode(list(made.ids[made.starts[0] :])))
    steps = text.split(STEP_TAG)[:-1]
    tags = [
        label
        for token, label in zip(made.ids[made.starts[0] :], made.labels, strict=True)
        if token == tokenizer.encode(STEP_TAG)[0]
    ]
    parsed = [synthetic.parse_step(step) for step in steps]
    right = [int(p is not None and synthetic.calculate(*p[:3]) == p[3]) for p in parsed]
    assert tags == right == [int(learn) for learn in made.learn]
    assert set(right) == {0, 1}


def test_optimiser_takes_every_parameter(tokenizer: PreTrainedTokenizerFast) -> None:
    """Matrices inside the layers go to one optimiser, all else to the other, none is left out."""
    network = RewardModel(tokenizer, layers=2)
    assert len(Optimiser(network).parameters) == len(list(network.parameters()))


def _loss(network: Reasoner, ids: torch.Tensor) -> float:
    with torch.no_grad():
        logits = network.logits(network(ids))
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
