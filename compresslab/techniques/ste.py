"""Rounding has no useful gradient; the straight-through estimator (直通估计器) invents one.

    forward     x' = (clip(rint(x / s) + z, low, high) - z) * s
    backward    dx'/dx = 1 where low <= rint(x / s) + z <= high, else 0

(Bengio et al. 2013, https://arxiv.org/abs/1308.3432). The derivative of rint is 0 almost everywhere;
pretending it is 1 is right on average, because rint(x) follows x.

LSQ (Esser et al. 2020, https://arxiv.org/abs/1902.08153, equation 3) also learns the step: with v = x / s

    dx'/ds = rint(v) - v   inside,    low - z   below,    high - z   above

scaled by g = 1 / sqrt(n * high), n numbers sharing the step (section 2.2), so that steps and weights
learn at comparable rates.
"""

import math

import torch


class _FakeQuantize(torch.autograd.Function):
    """Forward through codes; gradients of x straight through, of the scale as in LSQ."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor,
        limits: tuple[int, int],
    ) -> torch.Tensor:
        low, high = limits
        steps = x * (1 / scale)
        code = torch.round(steps).add_(zero_point)
        clipped = code.clamp(low, high)
        inside = code.eq_(clipped).bool()
        whole = clipped.sub_(zero_point)
        # A step that is not learned needs neither: half of the memory, and of the time to pass through it.
        learned = (steps, whole, scale) if ctx.needs_input_grad[1] else ()
        ctx.save_for_backward(inside, *learned)
        ctx.high = high
        return whole * scale

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple:
        inside, *learned = ctx.saved_tensors
        grad_x = grad * inside
        if not learned:
            return grad_x, None, None, None
        steps, whole, scale = learned
        # Outside, dx'/ds is the clipped code alone; inside, v is taken off: grad_x is 0 where it is not.
        slope = _sum_to(grad * whole, scale.shape) - _sum_to(grad_x * steps, scale.shape)
        factor = 1 / math.sqrt(grad.numel() / scale.numel() * max(ctx.high, 1))
        return grad_x, slope * factor, None, None


def _sum_to(x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum over the axes along which a scale of that shape was broadcast."""
    extra = x.ndim - len(shape)
    x = x.sum(dim=tuple(range(extra))) if extra else x
    axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return x.sum(dim=axes, keepdim=True) if axes else x


def fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Quantize and dequantize in one, differentiable in x and in the scale.

    Args:
        x: float32 of any shape.
        scale: float32, positive; a scalar or a shape that broadcasts against x.
        zero_point: float32 codes, of scale's shape.
        low: smallest code.
        high: largest code.
    """
    if not torch.is_grad_enabled():  # nothing to keep: the same operations, in place
        code = (x * (1 / scale)).round_().add_(zero_point).clamp_(low, high)
        return code.sub_(zero_point).mul_(scale)
    return _FakeQuantize.apply(x, scale, zero_point, (low, high))


class _RoundGradient(torch.autograd.Function):
    """The identity, whose gradient is rounded at random to a few bits on its way back."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, bits: int, stochastic: bool
    ) -> torch.Tensor:
        ctx.bits, ctx.stochastic = bits, stochastic
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple:
        high = 2 ** (ctx.bits - 1) - 1
        scale = grad.abs().amax().clamp(min=1e-30) / high
        noise = torch.rand_like(grad) if ctx.stochastic else 0.5
        return torch.floor(grad / scale + noise) * scale, None, None


def quantize_gradient(x: torch.Tensor, bits: int, stochastic: bool = True) -> torch.Tensor:
    """X itself; the gradient that flows back through it is rounded to `bits` bits.

    Gradients need stochastic rounding: most are below half a step, and rounding to the nearest would
    turn them all to 0, a bias that training does not forgive (Zhou et al. 2016,
    https://arxiv.org/abs/1606.06160, section 2.4).

    Raises:
        ValueError: for bits outside 2..8.
    """
    if bits not in range(2, 9):
        raise ValueError(f"bits must be an integer from 2 to 8, got {bits}")
    return _RoundGradient.apply(x, bits, stochastic)
