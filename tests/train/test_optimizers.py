"""The optimizers on the bank axis are PyTorch's, step by step."""

import pytest
import torch

from fedsim.core.sections import Train
from fedsim.train.optimizers import learning_rate, make_optimizer

CASES = [
    Train(optimizer="sgd", lr=0.1),
    Train(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01),
    Train(optimizer="adamw", lr=0.01),
    Train(optimizer="adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)),
]


def torch_optimizer(settings: Train, parameter: torch.Tensor) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD([parameter], settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    return torch.optim.AdamW([parameter], settings.lr, tuple(settings.betas), weight_decay=settings.weight_decay)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_equals_torch_step_by_step(settings: Train) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(3, 5, generator=generator)
    theirs = ours.clone().requires_grad_()
    optimizer, oracle = make_optimizer(settings, ours), torch_optimizer(settings, theirs)
    for _ in range(5):
        grads = torch.randn(3, 5, generator=generator)
        optimizer.step(ours, grads, slice(None), torch.tensor(settings.lr))
        theirs.grad = grads.clone()
        oracle.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_bank_that_has_finished_does_not_move(settings: Train) -> None:
    params = torch.ones(2, 3)
    optimizer = make_optimizer(settings, params)
    optimizer.step(params, torch.ones(2, 3), slice(None), torch.tensor(0.1))
    before = params[0].clone()
    optimizer.step(params, torch.ones(2, 3), torch.tensor([1]), torch.tensor(0.1))
    assert torch.equal(params[0], before)
    assert not torch.equal(params[1], before)


def test_cosine_goes_from_lr_to_min_lr_over_the_rounds() -> None:
    settings = Train(lr=1.0, lr_schedule="cosine", min_lr=0.1)
    assert learning_rate(settings, 0, 11) == pytest.approx(1.0)
    assert learning_rate(settings, 5, 11) == pytest.approx(0.55)
    assert learning_rate(settings, 10, 11) == pytest.approx(0.1)
    assert learning_rate(Train(lr=1.0), 7, 11) == 1.0
