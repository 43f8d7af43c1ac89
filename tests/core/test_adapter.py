"""The adapter algebra, on layers of different, non-square shapes."""

from __future__ import annotations

import math

import pytest
import torch

from fedsim.core.adapter import (
    AdapterState,
    add,
    compact,
    factor,
    flatten,
    fold,
    leading,
    modules,
    norm,
    pad,
    product,
    product_norm,
    redraw,
    resize,
    stack,
    svd_of_product,
    top_mask,
    truncate,
    unflatten,
    weighted_mean,
)

SHAPES = {"q": (3, 4), "v": (5, 3)}  # (d_out, d_in)


def draw(rank: int = 2, scaling: float = 2.0, seed: int = 0, dtype=torch.float64) -> AdapterState:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"head.score.bias": torch.ones(2, dtype=dtype)}
    for module, (d_out, d_in) in SHAPES.items():
        tensors[f"{module}.A"] = torch.randn(rank, d_in, generator=generator, dtype=torch.float64).to(dtype)
        tensors[f"{module}.B"] = torch.randn(d_out, rank, generator=generator, dtype=torch.float64).to(dtype)
    return AdapterState(tensors, rank, scaling)


def near(left: AdapterState, right: AdapterState, tolerance: float = 1e-12) -> bool:
    """The same products."""
    return all(float((product(left, m) - product(right, m)).norm()) < tolerance for m in SHAPES)


def test_names() -> None:
    adapter = draw()
    assert modules(adapter.tensors) == ["q", "v"]
    assert [factor(name) for name in ("q.A", "v.B", "v.R", "head.score.A")] == ["A", "B", "R", "head"]


def test_product_by_hand() -> None:
    tensors = {"m.A": torch.tensor([[1.0, 2.0]]), "m.B": torch.tensor([[1.0], [0.0], [3.0]])}
    by_hand = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]], dtype=torch.float64)
    assert torch.equal(product(AdapterState(tensors, 1, 0.5), "m"), 0.5 * by_hand)
    with_r = AdapterState({**tensors, "m.R": torch.tensor([[4.0]])}, 1, 0.5)
    assert torch.equal(product(with_r, "m"), 2 * by_hand)
    assert product_norm(AdapterState(tensors, 1, 0.5)) == pytest.approx(0.5 * math.sqrt(50))


def test_weighted_mean_sums_in_float64() -> None:
    """In float32 the sum of 1 and ten times 3e-8 would stay 1."""
    items = [{"x": torch.tensor([1.0])}] + [{"x": torch.tensor([3e-8])}] * 10
    mean = weighted_mean(items, [1.0] * 11)["x"]
    assert mean.dtype == torch.float32
    assert float(mean) == pytest.approx((1 + 3e-7) / 11, rel=1e-7)
    with pytest.raises(ValueError, match="positive sum"):
        weighted_mean(items, [0.0] * 11)
    with pytest.raises(ValueError, match="11 items, 2 weights"):
        weighted_mean(items, [1.0, 1.0])


def test_stack_is_the_exact_sum_of_products() -> None:
    adapters = [draw(1, 4.0, 1), draw(2, 0.5, 2), draw(3, 2.0, 3)]
    total = stack(adapters, [0.5, 0.3, 0.2])
    assert (total.rank, total.scaling) == (6, 1.0)
    for module in SHAPES:
        expected = sum(w * product(a, module) for w, a in zip([0.5, 0.3, 0.2], adapters, strict=True))
        assert torch.allclose(product(total, module), expected, atol=1e-12)


def test_svd_of_a_product_is_the_dense_one_with_fixed_signs() -> None:
    a, b = draw().tensors["v.A"], draw().tensors["v.B"]
    u, sigma, vt = svd_of_product(a, b)
    assert torch.allclose(u * sigma @ vt, b @ a, atol=1e-12)
    assert torch.allclose(sigma, torch.linalg.svdvals(b @ a)[:2], atol=1e-12)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


def test_truncate_is_the_best_approximation() -> None:
    adapter = draw(3)
    cut = truncate(adapter, 1, 5.0)
    assert (cut.rank, cut.scaling) == (1, 5.0)
    sigma = torch.linalg.svdvals(product(adapter, "v"))
    assert float((product(adapter, "v") - product(cut, "v")).norm()) == pytest.approx(float(sigma[1:].norm()))
    assert near(truncate(adapter, 3, 0.7), adapter)
    nothing = truncate(adapter.with_tensors({"q.B": torch.zeros(3, 3)}), 2, 1.0)
    assert not nothing.tensors["q.A"].any()
    assert not nothing.tensors["q.B"].any()


def test_leading_undoes_pad() -> None:
    adapter = draw()
    wide = AdapterState(pad(adapter.tensors, 4), 4, adapter.scaling)
    assert wide.tensors["q.A"].shape == (4, 4)
    assert near(wide, adapter)
    back = leading(wide, 2)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in adapter.tensors.items())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_resize_keeps_the_product_of_the_ranks_that_stay(rank: int) -> None:
    adapter = draw()
    resized = resize(adapter, rank, 0.25)
    assert (resized.rank, resized.scaling) == (rank, 0.25)
    assert near(resized, leading(adapter, min(rank, 2)))
    assert torch.equal(resized.tensors["q.A"][:1], adapter.tensors["q.A"][:1])  # the ratio is in B


def test_compact_is_exact_and_no_wider_than_the_layer() -> None:
    adapter = draw(7, 0.5)
    small = compact(adapter)
    assert near(small, adapter)
    assert (small.rank, small.scaling) == (3, 1.0)
    assert small.tensors["q.A"].shape == (3, 4)
    assert small.tensors["v.A"].shape == (3, 3)
    assert compact(draw(2)).rank == 2


def test_fold_appends_until_the_layers_are_full_and_then_merges() -> None:
    frozen: tuple[AdapterState, ...] = ()
    lengths = []
    for seed in range(5):
        frozen = fold(frozen, draw(2, seed=seed))
        lengths.append(len(frozen))
        whole = stack([draw(2, seed=s) for s in range(seed + 1)], [1.0] * (seed + 1))
        assert near(stack(frozen, [1.0] * len(frozen)), whole, 1e-11)
    assert lengths == [1, 2, 1, 2, 1]  # 2, 2 + 2, then 2 + 4 > 3: one again


def test_fold_with_a_bound_keeps_the_best_approximation() -> None:
    frozen = fold(fold((), draw(2, seed=0)), draw(2, seed=1), max_rank=1)
    (only,) = frozen
    best = truncate(stack([draw(2, seed=0), draw(2, seed=1)], [1.0, 1.0]), 1, 1.0)
    assert near(only, best)


def test_top_mask_takes_exactly_count_and_breaks_ties_by_index() -> None:
    tensors = {"b": torch.tensor([[-2.0], [2.0]]), "a": torch.tensor([0.0, 2.0, -1.0])}
    assert flatten(top_mask(tensors, 2)).tolist() == [False, True, False, True, False]  # a before b
    assert int(flatten(top_mask(tensors, 0)).sum()) == 0
    assert int(flatten(top_mask(tensors, 99)).sum()) == 5
    assert top_mask({}, 3) == {}
    with pytest.raises(ValueError, match="NaN"):
        top_mask({"a": torch.tensor([1.0, float("nan")])}, 1)


def test_redraw_is_pefts_initial_value() -> None:
    fresh = redraw(draw(), 4, 3.0, torch.Generator().manual_seed(1))
    assert (fresh.rank, fresh.scaling) == (4, 3.0)
    assert fresh.tensors["q.A"].abs().max() <= 1 / math.sqrt(4)
    assert not fresh.tensors["q.B"].any()
    assert torch.equal(fresh.tensors["head.score.bias"], torch.ones(2, dtype=torch.float64))


def test_flatten_and_back() -> None:
    tensors = draw().tensors
    vector = flatten(tensors)
    assert torch.equal(vector[:2], tensors["head.score.bias"])  # sorted by name
    assert all(torch.equal(t, tensors[name]) for name, t in unflatten(vector, tensors).items())
    assert norm(tensors) == pytest.approx(float(vector.norm()))


def test_add_keeps_names_that_are_missing_on_the_right() -> None:
    assert add({"a": torch.ones(1), "b": torch.ones(1)}, {"b": torch.ones(1)}) == {"a": 1, "b": 2}
