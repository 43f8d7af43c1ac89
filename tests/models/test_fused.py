"""Every fused piece is the function it stands for, and its gradients are those of autograd, to float64's rounding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention, softmax

from fedsim.models import fused
from fedsim.models.fused import attention, losses_of_hidden, low_rank, rms_norm, token_losses


def values(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=draws, dtype=torch.float64).requires_grad_()


def assert_same_function(found: Callable[..., Tensor], expected: Callable[..., Tensor], *leaves: Tensor) -> None:
    """Values and the gradients of some function of them, with regard to all leaves and to each one alone."""
    ours, theirs = found(*leaves), expected(*leaves)
    assert torch.allclose(ours, theirs, atol=1e-12)
    along = values(*ours.shape, seed=9).detach()
    for wanted in (leaves, *((leaf,) for leaf in leaves)):
        given = [leaf if any(leaf is one for one in wanted) else leaf.detach() for leaf in leaves]
        pairs = (torch.autograd.grad((function(*given) * along).sum(), wanted) for function in (found, expected))
        for ours, theirs in zip(*pairs, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-12)


def test_low_rank_by_hand() -> None:
    x, a, b = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, -1.0]]]), torch.tensor([[[0.5]]])
    weight, bias = torch.tensor([[10.0, 20.0]]), torch.tensor([100.0])
    out = low_rank(x, weight, bias, a, b, torch.full((1, 1, 1), 4.0))
    assert out.tolist() == [[[100 + 10 + 40 + 4 * 0.5 * (3 - 2)]]]


@pytest.mark.parametrize("biased", [True, False])
def test_low_rank_and_its_gradients(biased: bool) -> None:
    x, a, b = values(3, 4, 5), values(3, 2, 5, seed=1), values(3, 6, 2, seed=2)
    weight, bias = values(6, 5).detach(), values(6).detach() if biased else None
    scaling = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)[:, None, None]

    def plain(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return linear(x, weight, bias) + scaling * (x @ a.transpose(1, 2) @ b.transpose(1, 2))

    def fused(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return low_rank(x, weight, bias, a, b, scaling)

    assert_same_function(fused, plain, x, a, b)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


@pytest.mark.parametrize("d", [6, 18])  # narrow heads, wide heads
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("rotary", [True, False])
def test_attention_and_its_gradients(groups: int, rotary: bool, d: int) -> None:
    n, heads, t = 1, 4, 3
    q, k, v = values(n, heads, t, d), values(n, groups, t, d, seed=1), values(n, groups, t, d, seed=2)
    mask = torch.zeros(n, 1, t, t, dtype=torch.float64)
    mask[:, :, ~torch.ones(t, t).tril().bool()] = torch.finfo(torch.float64).min
    angle = values(n, 1, t, d // 2).detach().repeat(1, 1, 1, 2)
    cos, sin = (angle.cos(), angle.sin()) if rotary else (None, None)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if cos is not None and sin is not None:
            q, k = (x * cos + rotate_half(x) * sin for x in (q, k))
        k, v = (x.repeat_interleave(heads // groups, 1) for x in (k, v))
        return scaled_dot_product_attention(q, k, v, mask, scale=0.3).transpose(1, 2)

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        turned = (None, None) if cos is None or sin is None else (cos.transpose(2, 3), sin.transpose(2, 3))
        return attention(q, k, v, mask, 0.3, *turned)

    assert_same_function(fused, plain, q, k, v)


def test_attention_to_more_keys_than_queries() -> None:
    """As when an answer is written and earlier keys are kept."""
    q, k, v = values(2, 3, 1, 4), values(2, 3, 5, 4), values(2, 3, 5, 4, seed=1)
    expected = softmax(0.5 * q @ k.transpose(2, 3), -1) @ v
    assert torch.allclose(attention(q, k, v, None, 0.5), expected.transpose(1, 2), atol=1e-12)


def test_norm_and_its_gradient() -> None:
    x, weight = values(3, 4, 5), values(5).detach()

    def plain(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    assert_same_function(lambda x: rms_norm(x, weight, 1e-6), plain, x)


def test_token_loss_and_its_gradient() -> None:
    targets = torch.tensor([0, 6, 3, 3, 1, 2])

    def plain(logits: Tensor) -> Tensor:
        return cross_entropy(logits, targets, reduction="none")

    assert_same_function(lambda logits: token_losses(logits, targets), plain, values(6, 7))


def test_token_loss_where_a_probability_underflows() -> None:
    logits = torch.tensor([[300.0, 0.0, 299.0]])
    loss = token_losses(logits, torch.tensor([1]))
    assert loss.item() == pytest.approx(cross_entropy(logits, torch.tensor([1])).item(), rel=1e-6)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("at_a_time", [1, 4, 6, 100])
def test_losses_of_hidden_and_their_gradient(at_a_time: int, biased: bool, monkeypatch) -> None:
    """However many tokens have their logits in memory at a time."""
    monkeypatch.setattr(fused, "FEWEST", at_a_time)
    monkeypatch.setattr(fused, "LOGITS", 7 * at_a_time)
    weight, bias = values(7, 5).detach(), values(7).detach() if biased else None
    targets = torch.tensor([0, 6, 3, 3, 1, 2])

    def plain(hidden: Tensor) -> Tensor:
        return cross_entropy(linear(hidden, weight, bias), targets, reduction="none")

    assert_same_function(lambda hidden: losses_of_hidden(hidden, weight, bias, targets), plain, values(6, 5))


def test_losses_of_no_hidden() -> None:
    assert losses_of_hidden(torch.zeros(0, 5), torch.zeros(7, 5), None, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_losses_of_bfloat16_are_float32() -> None:
    hidden, weight = values(2, 5).bfloat16().detach().requires_grad_(), values(7, 5).bfloat16().detach()
    targets = torch.tensor([0, 6])
    losses = losses_of_hidden(hidden, weight, None, targets)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(
        cross_entropy(linear(hidden, weight).float(), targets, reduction="none").tolist()
    )
    assert torch.autograd.grad(losses.sum(), hidden)[0].dtype == torch.bfloat16
