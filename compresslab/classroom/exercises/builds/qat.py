"""Lab 03: a linear layer whose weight is quantized while it trains."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake
from compresslab.techniques.ste import fake_quantize

FORWARD, GRADIENT, TRAINS, CODES = "on the grid", "the gradient passes", "trains", "codes"


class _Trained(nn.Module):
    """The reference, with what people get wrong as options."""

    def __init__(
        self,
        layer: nn.Linear,
        bits: int,
        *,
        per_channel: bool = True,
        straight: bool = True,
        fixed: bool = False,
        rounded: bool = True,
        high: int | None = None,
        bias: bool = True,
        codes_of: Callable = torch.round,
        own: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone()) if own else layer.weight
        self.bias = nn.Parameter(layer.bias.detach().clone())
        self.high = 2 ** (bits - 1) - 1 if high is None else high
        self.per_channel, self.straight, self.fixed = per_channel, straight, fixed
        self.rounded, self.with_bias, self.codes_of = rounded, bias, codes_of
        self.first = self._scale()

    def _scale(self) -> torch.Tensor:
        size = self.weight.detach().abs()
        top = size.amax(1, keepdim=True) if self.per_channel else size.max().expand(len(size), 1)
        return (top / self.high).clamp(min=1e-12)

    def scale(self) -> torch.Tensor:
        return self.first if self.fixed else self._scale()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s, w = self.scale(), self.weight
        q = torch.clamp(torch.round(w / s), -self.high, self.high) * s if self.rounded else w
        used = w + (q - w).detach() if self.straight else q
        return nn.functional.linear(x, used, self.bias if self.with_bias else None)

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.scale()
        return torch.clamp(self.codes_of(self.weight.detach() / s), -self.high, self.high).to(
            torch.int8
        ), s[:, 0]


class _Library(nn.Module):
    def __init__(self, layer: nn.Linear, bits: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = nn.Parameter(layer.bias.detach().clone())
        self.high = 2 ** (bits - 1) - 1

    def scale(self) -> torch.Tensor:
        return (self.weight.detach().abs().amax(1) / self.high).clamp(min=1e-12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.scale()[:, None]
        zero = torch.zeros_like(scale)
        return nn.functional.linear(
            x, fake_quantize(self.weight, scale, zero, -self.high, self.high), self.bias
        )

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.scale()
        codes = torch.round(self.weight.detach() / scale[:, None]).clamp(-self.high, self.high)
        return codes.to(torch.int8), scale


def quantized_layer(layer: nn.Linear, bits: int) -> nn.Module:
    """A module that computes with a quantized weight and trains the real one."""
    return _Library(layer, bits)


def at_work(function: Callable) -> Callable:
    """What comes of the module in one stage, as arrays."""

    def run(stage, weight, bias, x, target, bits):
        torch.manual_seed(0)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
        module, inputs = function(layer, bits), torch.from_numpy(x)
        if not isinstance(module, torch.nn.Module):
            return ("none",)
        if stage == "on the grid":
            return "outputs", module(inputs).detach().numpy()
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            return ("nothing",)
        if stage == "the gradient passes":
            (module(inputs) * torch.from_numpy(target)).sum().backward()
            shape = layer.weight.shape
            kept = [(p.grad, p.shape == shape) for p in trained if p.shape in (shape, shape[::-1])]
            found = [g if g is None or upright else g.T for g, upright in kept]
            return ("gradient", *(g.numpy() for g in found if g is not None))
        optimizer = torch.optim.Adam(trained, 0.02)
        for _ in range(100):
            optimizer.zero_grad()
            (module(inputs) - torch.from_numpy(target)).square().mean().backward()
            optimizer.step()
        outputs = module(inputs).detach().numpy()
        if stage == "trains":
            return "outputs", outputs
        codes, scales = module.codes()
        return (
            "codes",
            bool(np.array_equal(layer.weight.detach().numpy(), weight)),
            torch.as_tensor(codes).detach().numpy(),
            torch.as_tensor(scales).detach().numpy(),
            module.bias.detach().numpy(),
            outputs,
        )

    return run


def _rounded(weight, bits):
    high = 2 ** (bits - 1) - 1
    scale = np.abs(weight).max(1, keepdims=True) / high
    return np.rint(weight / scale) * scale


def seen(value: tuple, stage, weight, bias, x, target, bits) -> str:
    """One sentence about a stage."""
    kind, *found = value
    if kind == "none":
        return "it hands back no module"
    if kind == "nothing":
        return "there is nothing to train"
    if stage == FORWARD:
        same = np.allclose(found[0], x @ _rounded(weight, bits).T + bias, atol=1e-4)
        return RIGHT if same else "its outputs are not those of the rounded weight"
    if stage == GRADIENT:
        if not found or not np.any(found[0]):
            return "no gradient reaches the weight"
        same = np.allclose(found[0], target.T @ x, atol=1e-3)
        return RIGHT if same else "the gradient is not the one of the rounded weight"
    if stage == TRAINS:
        before = np.square(x @ _rounded(weight, bits).T + bias - target).mean()
        after = np.square(found[0] - target).mean()
        return RIGHT if after < 0.8 * before else "100 steps of training gain less than a fifth"
    same, codes, scales, biases, outputs = found
    if not same:
        return "training the module changes the layer that was given"
    high = 2 ** (bits - 1) - 1
    if codes.dtype != np.int8 or codes.shape != weight.shape or scales.shape != (len(weight),):
        return "codes are no int8 [outputs, inputs] with a scale per output"
    if np.abs(codes.astype(int)).max() > high:
        return "some code is outside of the grid"
    same = np.allclose(x @ (codes * scales[:, None]).T + biases, outputs, atol=1e-3)
    return RIGHT if same else "codes times scales are not the weight that the module computes with"


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, inputs: int, outputs: int, bits: int) -> Case:
        weight = generator.normal(0, 1, (outputs, inputs)) / inputs**0.5
        weight *= generator.uniform(0.2, 3, (outputs, 1))
        bias, x = generator.normal(0, 1, outputs), generator.normal(0, 1, (96, inputs))
        x[:, 1] = x[:, 0] + 0.2 * x[:, 1]
        target = x @ weight.T + bias
        arrays = (a.astype(np.float32) for a in (weight, bias, x, target))
        return Case(f"{stage}: {bits} bits", (stage, *arrays, bits), stage)

    stages = (FORWARD, GRADIENT, TRAINS, CODES)
    found = [case(stage, *size) for stage in stages for size in ((6, 4, 3), (10, 5, 2))]
    return [case(FORWARD, 7, 3, 5), *found]


def _wrong(**options: object) -> Callable:
    return lambda layer, bits: _Trained(layer, bits, **options)


QUANTIZED_LAYER = Exercise(
    id="qat.quantized_layer",
    title="A layer that trains on the grid",
    points=16,
    reference=quantized_layer,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=20,
    stages=((FORWARD, 4), (GRADIENT, 4), (TRAINS, 4), (CODES, 4)),
    mistakes=(
        Mistake(
            "no straight-through estimator",
            _wrong(straight=False),
            "The derivative of rounding is 0 almost everywhere: without the straight-through estimator "
            "only the "
            "bias learns.",
        ),
        Mistake(
            "not rounded",
            _wrong(rounded=False),
            "The forward pass must compute with the *rounded* weight; the real one only takes the "
            "gradient.",
        ),
        Mistake(
            "one scale for all outputs",
            _wrong(per_channel=False),
            "The grid is one per output: the largest absolute weight of each row lies on its last code.",
        ),
        Mistake(
            "the bias left out",
            _wrong(bias=False),
            "The bias stays real, and is added.",
        ),
        Mistake(
            "the layer's own weight",
            lambda layer, bits: _Trained(layer, bits, own=False),
            "The module trains the very weight of the layer that was given. Give it a parameter of its own: "
            "`nn.Parameter(layer.weight.detach().clone())`.",
        ),
        Mistake(
            "codes cut instead of rounded",
            _wrong(codes_of=torch.trunc),
            "`codes()` has to round as the forward pass does; a conversion to int8 cuts the fraction off.",
        ),
    ),
)

EXERCISES = (QUANTIZED_LAYER,)
