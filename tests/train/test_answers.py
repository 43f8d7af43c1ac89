"""Written answers: how they are judged, and that a model writes what it would write without shortcuts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedsim.core.adapter import AdapterState
from fedsim.core.errors import ModelError
from fedsim.core.rows import Corpus
from fedsim.core.sections import Lora
from fedsim.models import MODELS
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from fedsim.models.tasks import CausalLM
from fedsim.train.answers import exact_match, judge, numeric_match, token_f1
from fedsim.train.metrics import metrics
from fedsim.train.values import Scores
from tests import tiny


def test_exact_match_forgives_case_spaces_and_a_full_stop() -> None:
    assert exact_match(" Amount of  cash. ", "amount of cash") == 1
    assert exact_match("1.2", "12") == 0


def test_token_f1_counts_shared_words() -> None:
    assert token_f1("the amount of cash", "Amount of a loan") == pytest.approx(2 * 2 / (3 + 3))
    assert token_f1("cash cash", "cash") == pytest.approx(2 * 1 / 3)  # as often as both have it
    assert (token_f1("", "cash"), token_f1("", ""), token_f1("1.2", "12")) == (0, 1, 0)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("It is $21,462.58.", "21462.58", 1),
        ("21480", "21462.58", 1),  # within a thousandth
        ("21490", "21462.58", 0),
        ("0.144", "0.14", 1),
        ("0.146", "0.14", 0),
        ("-$ 5", "-5.0", 1),
        ("5", "-5.0", 0),
        (".5 percent", "0.5%", 1),
        ("no idea", "3", 0),
        ("3", "three", math.nan),
    ],
)
def test_numeric_match(answer: str, truth: str, score: float) -> None:
    assert numeric_match(answer, truth) == pytest.approx(score, nan_ok=True)


def test_metrics_are_means_over_the_rows_that_say_something() -> None:
    judged = judge([("a", "a"), ("b 1", "b 2")])
    scores = Scores(np.arange(2), np.full(2, -1), np.zeros((2, 0)), np.ones(2), judged)
    found = metrics(scores, 0, ["nll", "exact_match", "token_f1", "numeric_match"])
    assert found == {"nll": 1.0, "exact_match": 0.5, "token_f1": 0.75, "numeric_match": 0.0}  # "a" is no number


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFace, CausalLM, AdapterState]:
    model = HuggingFace(HuggingFace.Config(id=str(tiny.save_llama(tmp_path_factory.mktemp("m"))), max_length=64))
    network = model.load(Lora(r=4, target_modules=["q_proj", "v_proj"]), 0)
    assert isinstance(network, CausalLM)
    adapter = network.new_adapter(1)
    moved = {name: tensor + 0.05 for name, tensor in adapter.tensors.items()}
    return model, network, AdapterState(moved, adapter.rank, adapter.scaling)


def free_text() -> Corpus:
    rows = tiny.corpus(6)
    return Corpus(rows.prompts, rows.answers, np.full(6, -1), (), rows.test)


def test_greedy_answers_with_a_cache_are_those_without(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, network, adapter = loaded
    rows, indices = model.encode(free_text()), np.array([3, 0, 5])
    cohort = Cohort({name: t[None] for name, t in adapter.tensors.items()}, torch.tensor([adapter.scaling]))
    with torch.no_grad(), network.using(cohort):
        found = network._write([rows.row(i)[: rows.answer_starts[i]] for i in indices], 7)
        for own, index in zip(found, indices, strict=True):
            ids = torch.from_numpy(rows.row(index)[: rows.answer_starts[index]].astype(np.int64))[None]
            for token in own:
                likely = network.network(input_ids=ids, use_cache=False).logits[0, -1].argmax()
                assert int(likely) == token
                ids = torch.cat([ids, likely[None, None]], dim=1)
        end = int(found[0, 2])
        (pair,) = network.answers(rows, np.array([1]), 3)
        assert pair[1] == free_text().answers[1]
        monkeypatch.setattr(network, "tokenizer", SimpleNamespace(eos_token_id=end))
        stopped = network._write([rows.row(i)[: rows.answer_starts[i]] for i in indices], 7)
        first = [list(row).index(end) if end in row else 6 for row in found]
        for own, whole, last in zip(stopped, found, first, strict=True):
            assert list(own[: last + 1]) == list(whole[: last + 1])
            assert set(own[last + 1 :]) <= {network.pad_id}


def test_a_prompt_makes_room_for_its_answer(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    _, network, adapter = loaded
    monkeypatch.setattr(network.network.config, "max_position_embeddings", 6)
    cohort = Cohort({name: t[None] for name, t in adapter.tensors.items()}, torch.tensor([adapter.scaling]))
    prompt = np.array([5, 6, 7, 8, 9, 10])
    with torch.no_grad(), network.using(cohort):
        assert network._write([prompt], 2).tolist() == network._write([prompt[-4:]], 2).tolist()


def test_a_model_of_images_writes_none() -> None:
    lora = Lora(r=1)
    network = MODELS.create("resnet", {"width": 2, "channels": 1}).load(lora, 2)
    with pytest.raises(ModelError, match="writes no text"):
        network.answers(None, np.array([0]), 1)
