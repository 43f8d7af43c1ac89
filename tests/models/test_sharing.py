"""A network that uses another process' weights computes the same bits, and holds none of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.core.aligned import ALIGNMENT, aligned
from fedsim.core.sections import Lora
from fedsim.models.hf import HuggingFace
from fedsim.models.lora import Cohort
from fedsim.models.sharing import adopt, frozen_bytes
from fedsim.models.tasks import HuggingFaceTask
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


def load(folder: Path, bits: int | None):
    hf = HuggingFace(HuggingFace.Config(id=str(folder), quant_bits=bits, max_length=64))
    model = hf.load(Lora(r=4, target_modules=["q_proj", "v_proj"]), 2)
    assert isinstance(model, HuggingFaceTask)
    return hf, model


def gradients(model: HuggingFaceTask, rows) -> list[torch.Tensor]:
    adapter = model.new_adapter(0)
    leaves = {name: (tensor + 0.01)[None].requires_grad_() for name, tensor in adapter.tensors.items()}
    with model.using(Cohort(leaves, torch.tensor([2.0]))):
        losses = model.row_losses(model.batch(rows, np.arange(6)))
        return [losses.detach(), *torch.autograd.grad(losses.sum(), list(leaves.values()))]


def read_only(weights: list[np.ndarray], askew: int = 0) -> list[np.ndarray]:
    """As Ray hands them out: aligned, ``askew`` bytes apart from it, and whoever writes to them is refused."""
    copies = []
    for array in weights:
        room = np.empty(len(array) + 2 * ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ALIGNMENT + askew
        copies.append(room[start : start + len(array)])
        copies[-1][:] = array
        copies[-1].setflags(write=False)
    return copies


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("is_used", [False, True], ids=["fresh", "used"])
def test_shared_weights_give_the_same_bits(folder, bits, is_used) -> None:
    hf, model = load(folder, bits)
    rows = hf.encode(tiny.corpus())
    own = gradients(load(folder, bits)[1], rows)
    if is_used:  # an 8-bit layer moves its weight in its first pass
        gradients(model, rows)
    weights = read_only(model.weights())
    assert model.adopt(weights) == sum(map(len, weights))
    assert all(map(torch.equal, gradients(model, rows), own))
    here = {array.ctypes.data for array in model.weights()}
    assert here == {array.ctypes.data for array in weights}, "nothing of its own is left"


def test_all_large_weights_are_shared(folder) -> None:
    _, model = load(folder, None)
    whole = sum(parameter.numel() * 4 for parameter in model.network.parameters())
    assert sum(map(len, model.weights())) == whole


def test_a_weight_that_differs_stays_its_own(folder) -> None:
    """Two processes that loaded different bits must not become one: the run would not repeat."""
    _, model = load(folder, None)
    weights = read_only(frozen_bytes(model.network))
    weights[0].setflags(write=True)
    weights[0][3] ^= 1
    before = model.weights()[0].copy()
    assert adopt(model.network, weights) == sum(map(len, weights[1:]))
    assert np.array_equal(model.weights()[0], before)
    assert model.weights()[0].ctypes.data != weights[0].ctypes.data


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_every_frozen_weight_begins_where_products_round_alike(folder, bits) -> None:
    """Those of a file begin anywhere when it is mapped: a process that has them would come to other bits."""
    hf, model = load(folder, bits)
    gradients(model, hf.encode(tiny.corpus()))
    weights = model.weights()
    assert [array.ctypes.data % ALIGNMENT for array in weights] == [0] * len(weights)


def test_weights_that_begin_elsewhere_are_not_taken_over(folder) -> None:
    """Ray puts buffers of less than 2 kB anywhere: these stay a process' own."""
    _, model = load(folder, None)
    before = [array.ctypes.data for array in model.weights()]
    assert model.adopt(read_only(model.weights(), askew=8)) == 0
    assert [array.ctypes.data for array in model.weights()] == before


def test_control_a_product_with_a_weight_that_begins_elsewhere_has_other_bits() -> None:
    draws = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(64, 64, generator=draws), torch.randn(50, 1, 64, generator=draws)
    (askew,) = read_only([weight.view(-1).numpy().view(np.uint8)], askew=8)
    askew.setflags(write=True)  # torch warns of others
    other = torch.from_numpy(askew).view(torch.float32).view(64, 64)
    assert torch.equal(other, weight)
    assert all(torch.equal(row @ aligned(other).T, row @ weight.T) for row in rows)
    if all(torch.equal(row @ other.T, row @ weight.T) for row in rows):
        pytest.skip("this CPU's products do not depend on where a weight begins")
