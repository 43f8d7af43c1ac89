"""Pieces of a forward and backward pass that take fewer passes over memory than autograd's own.

Each is the same function as what it stands for, to float rounding; the weights of the base are frozen, so none has a
gradient for them. On a CPU a step of a small network is mostly such passes, and products with a side of a few columns:
a product whose result is as narrow as a head is computed transposed, which is up to three times as fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROW = 16  # columns up to which a product is faster when it is computed as its transpose
SMALLEST = 1e-30  # a probability that float32 still holds to all its digits
LOGITS, FEWEST = 1 << 19, 256  # logits in memory at a time, but of no fewer tokens: a product of few rows is slow


def low_rank(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: Tensor) -> Tensor:
    """x W^T + bias + scaling (x A^T) B^T, for a frozen W and m groups of rows with an A and a B each.

    x (m, t, d_in) float32, W (d_out, d_in), A (m, r, d_in), B (m, d_out, r), scaling (m, 1, 1) -> (m, t, d_out).
    """
    out: Tensor = _LowRank.apply(x, weight, bias, a, b, scaling)  # type: ignore[no-untyped-call]
    return out


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
) -> Tensor:
    """softmax(scaling q k^T + mask) v, with rotary embedding of q and k where cos and sin are given.

    q (n, heads, t, d), k and v (n, groups, s, d) where groups divides heads, mask (n or 1, 1, t, s) added or None,
    cos and sin (n or 1, 1, d, t) or None, both halves of d alike -> (n, t, heads, d).
    """
    out: Tensor = _Attention.apply(q, k, v, mask, scaling, cos, sin)  # type: ignore[no-untyped-call]
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (1910.07467, eq. 4), for a frozen weight and float32 x."""
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy per position: logits (n, vocab) float32, targets (n,) -> (n,)."""
    out: Tensor = _TokenLosses.apply(logits, targets)  # type: ignore[no-untyped-call]
    return out


def losses_of_hidden(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """``token_losses`` of the logits hidden W^T + bias, for a frozen W, of which few rows exist at any time.

    hidden (n, d), W (vocab, d), targets (n,) -> (n,), at least float32. The gradient of a loss is a number times a row
    that is known in the forward pass, so that is where the logits are used a second time, and for the last.
    """
    out: Tensor = _LossesOfHidden.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return out


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: Tensor) -> Any:
        hidden = torch.bmm(a, x.transpose(1, 2)).mul_(scaling)  # (m, r, t)
        out = torch.nn.functional.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, a, b, hidden, scaling)
        return out.baddbmm_(hidden.transpose(1, 2), b.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight, a, b, hidden, scaling = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_b = torch.bmm(hidden, grad).transpose(1, 2) if wanted[4] else None
        narrow = torch.bmm(b.transpose(1, 2), grad.transpose(1, 2)).mul_(scaling) if wanted[0] or wanted[3] else None
        grad_a = torch.bmm(narrow, x) if wanted[3] and narrow is not None else None
        grad_x = None
        if wanted[0] and narrow is not None:
            grad_x = torch.matmul(grad, weight).baddbmm_(narrow.transpose(1, 2), a)
        return grad_x, None, None, grad_a, grad_b, None


class _Attention(torch.autograd.Function):
    """A head's values have the shape (d, t) in here; where heads are narrow they lie so in memory, too."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scaling: float,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> Any:
        n, heads, t, d = q.shape
        ctx.scaling, ctx.shared = scaling, heads // k.shape[1]
        turned = [rotated(part.transpose(2, 3), cos, sin) for part in (q, k)]
        qt, kt, vt = (_per_head(part, heads) for part in (*turned, v.transpose(2, 3)))
        qt = qt * scaling
        scores = torch.bmm(qt.transpose(1, 2), kt)  # (n heads, t, s)
        if mask is not None:
            scores.view(n, heads, t, -1).add_(mask)
        p = torch.softmax(scores, -1, out=scores)  # row by row, so it may write over what it reads
        ctx.save_for_backward(qt, kt, vt, p, cos, sin)
        out = _product(vt, p.transpose(1, 2))  # (n heads, d, t)
        return out.view(n, heads, d, t).permute(0, 3, 1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        qt, kt, vt, p, cos, sin = ctx.saved_tensors
        n, _, heads, d = grad.shape
        wanted = ctx.needs_input_grad
        grad = _per_head(grad.permute(0, 2, 3, 1), heads)
        grad_v = _product(grad, p) if wanted[2] else None
        grad_q = grad_k = None
        if wanted[0] or wanted[1]:
            grad_p = torch.bmm(grad.transpose(1, 2), vt)
            scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            grad_q = _product(kt, scores.transpose(1, 2)).mul_(ctx.scaling) if wanted[0] else None
            grad_k = _product(qt, scores) if wanted[1] else None  # qt is scaled
        back = None if sin is None else -sin

        def whole(part: Tensor | None, shared: int, turned: bool) -> Tensor | None:
            if part is None:
                return None
            part = part.view(n, heads, d, -1)
            if shared > 1:
                part = part.view(n, heads // shared, shared, d, -1).sum(2)
            return (rotated(part, cos, back) if turned else part).transpose(2, 3)

        gradients = whole(grad_q, 1, True), whole(grad_k, ctx.shared, True), whole(grad_v, ctx.shared, False)
        return *gradients, None, None, None, None


def _per_head(part: Tensor, heads: int) -> Tensor:
    """(n, groups, d, t) -> (n heads, d, t), a head's values together in memory."""
    n, groups, d, t = part.shape
    if groups != heads:
        part = part[:, :, None].expand(n, groups, heads // groups, d, t)
    if d <= NARROW:
        return part.reshape(n * heads, d, t).contiguous()
    return part.transpose(-1, -2).reshape(n * heads, t, d).contiguous().transpose(1, 2)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(b, d, s) from (b, d, t) and (b, t, s), computed as its transpose unless d is small."""
    if left.shape[1] <= NARROW:
        return torch.bmm(left, right)
    return torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)


def rotated(part: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """Rotary embedding (2104.09864, eq. 34, halves paired as in Llama) of (n, heads, d, t); itself without cos, sin."""
    if cos is None or sin is None:
        return part
    n, heads, d, t = part.shape
    half = d // 2
    low, high = part[:, :, :half], part[:, :, half:]
    out = part.new_empty(n, heads, d, t) if d <= NARROW else part.new_empty(n, heads, t, d).transpose(2, 3)
    torch.mul(low, cos[:, :, :half], out=out[:, :, :half]).addcmul_(high, sin[:, :, :half], value=-1)
    torch.mul(high, cos[:, :, half:], out=out[:, :, half:]).addcmul_(low, sin[:, :, half:])
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Any:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        out = grad * weight
        along = torch.linalg.vecdot(out, x)[..., None].mul_(inverse.pow(3)).div_(x.shape[-1])
        return out.mul_(inverse).addcmul_(x, along, value=-1), None, None


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(probabilities (n, vocab), that of the target (n, 1), losses (n,))"""
    p = torch.softmax(logits, -1)
    own = p.gather(1, targets[:, None])
    loss = -own.log()
    lost = torch.nonzero(own[:, 0] < SMALLEST)[:, 0]  # its logarithm is inexact, or infinite
    if len(lost):
        few = logits[lost]
        loss[lost] = few.logsumexp(1, keepdim=True) - few.gather(1, targets[lost, None])
    return p, own, loss.squeeze(1)


class _LossesOfHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Any:
        at_a_time = max(FEWEST, LOGITS // len(weight))
        losses, rows = [], torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), at_a_time):
            part = slice(start, start + at_a_time)
            logits = torch.nn.functional.linear(hidden[part], weight, bias)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            p, own, loss = _cross_entropy(logits, targets[part])
            losses.append(loss)
            if rows is not None:
                p.scatter_(1, targets[part, None], own - 1)
                torch.mm(p.to(weight.dtype), weight, out=rows[part])
        ctx.save_for_backward(rows)
        return torch.cat(losses) if losses else hidden.new_zeros(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (rows,) = ctx.saved_tensors
        return rows * grad[:, None].to(rows.dtype), None, None, None


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Any:
        p, _, loss = _cross_entropy(logits, targets)
        ctx.save_for_backward(p, targets)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        p, targets = ctx.saved_tensors
        out = p.mul_(grad[:, None])  # nobody needs p again: autograd refuses a second backward pass
        return out.scatter_add_(1, targets[:, None], -grad[:, None]), None
