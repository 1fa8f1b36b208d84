"""Lab 03: the straight-through estimator, learned steps, stochastic rounding, deployment of a norm."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import with_gradient
from compresslab.techniques import folding, ste

f32 = np.float32


def _steps(x: torch.Tensor, scale: float) -> torch.Tensor:
    return x * (1 / torch.tensor(scale, dtype=torch.float32))


# ---- the gradient of rounding --------------------------------------------------------------------
def ste_gradient(
    x: torch.Tensor, scale: float, low: int, high: int, grad: torch.Tensor
) -> torch.Tensor:
    """The library's backward pass of fake quantization, with respect to x."""
    x = x.clone().requires_grad_(True)
    zero = torch.tensor(0.0)
    ste.fake_quantize(x, torch.tensor(scale, dtype=torch.float32), zero, low, high).backward(grad)
    return x.grad


def _gradient_cases(generator: np.random.Generator) -> list[Case]:
    def numbers(count: int, spread: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, spread, count).astype(np.float32))

    ends = torch.tensor([-2.2, -2.0, -1.9, 1.6, 1.74, 1.76, 2.5])
    return [
        Case("inside and outside", (torch.tensor([0.1, 3.0, -3.0]), 0.5, -4, 3, torch.ones(3))),
        Case(
            "an incoming gradient",
            (torch.tensor([0.1, -0.6]), 0.5, -4, 3, torch.tensor([2.0, -3.0])),
        ),
        Case("just inside and just outside", (ends, 0.5, -4, 3, torch.arange(1.0, 8.0))),
        Case("random", (numbers(50, 2.0), 0.3, -7, 7, numbers(50))),
        Case("no numbers", (torch.zeros(0), 0.5, -4, 3, torch.zeros(0))),
    ]


def _many_gradients(generator: np.random.Generator) -> Case:
    # Sixteenths of an eighth: no way to divide by the scale rounds.
    x = generator.integers(-500, 500, 2_500_000).astype(np.float32) / 128
    gradient = generator.normal(0, 1, len(x)).astype(np.float32)
    return Case(
        "two and a half million numbers",
        (torch.from_numpy(x), 0.25, -7, 7, torch.from_numpy(gradient)),
    )


STE_GRADIENT = Exercise(
    id="qat.ste_gradient",
    title="The straight-through gradient",
    points=2,
    reference=ste_gradient,
    cases=_gradient_cases,
    large=_many_gradients,
    lines=2,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "true derivative",
            lambda x, s, low, high, g: torch.zeros_like(g),
            "That is the true derivative of rounding, and with it nothing would ever learn. Straight "
            "through: pretend that rounding is the identity.",
        ),
        Mistake(
            "clipping forgotten",
            lambda x, s, low, high, g: g.clone(),
            "Where x is clipped, moving it changes nothing: the gradient there is 0.",
        ),
        Mistake(
            "scaled",
            lambda x, s, low, high, g: g * ste_gradient(x, s, low, high, torch.ones_like(g)) / s,
            "x is divided by the scale and multiplied by it again: the two cancel.",
        ),
        Mistake(
            "decided before rounding",
            lambda x, s, low, high, g: g * ((_steps(x, s) >= low) & (_steps(x, s) <= high)),
            "Up to half a step beyond the last code x still rounds inside: decide by the rounded code.",
        ),
        Mistake(
            "the ends left out",
            lambda x, s, low, high, g: (
                g * ((_steps(x, s).round() > low) & (_steps(x, s).round() < high))
            ),
            "The first and the last code count as inside.",
        ),
        Mistake(
            "incoming gradient ignored",
            lambda x, s, low, high, g: ste_gradient(x, s, low, high, torch.ones_like(g)),
            "The chain rule: multiply by the gradient that comes in.",
        ),
    ),
)


def fake_quantize(x: torch.Tensor, scale: float, low: int, high: int) -> torch.Tensor:
    """The library's symmetric fake quantization."""
    scale = torch.tensor(scale, dtype=torch.float32)
    return ste.fake_quantize(x, scale, torch.tensor(0.0), low, high)


def _fake_cases(generator: np.random.Generator) -> list[Case]:
    random = torch.from_numpy(generator.normal(0, 2, (4, 5)).astype(np.float32))
    return [
        Case("inside", (torch.tensor([0.1, -0.3, 0.6]), 0.25, -8, 7)),
        Case("clipped on both sides", (torch.tensor([-9.0, 0.4, 9.0]), 0.5, -4, 3)),
        Case("random, two dimensions", (random, 0.3, -7, 7)),
        Case("2 bits", (random, 1.0, -1, 1)),
    ]


def _detached(x, s, low, high, keep: str):
    v = _steps(x, s)
    q = v.round().clamp(low, high)
    if keep == "nothing":
        return q * s
    if keep == "everything":
        return x + (q * s - x).detach()
    return (v.clamp(low, high) * s).detach() + 0 * x


def _clamped_first(x, s, low, high, *, reals=False):
    y = x.clamp(low * s, high * s) / s if reals else _steps(x, s).clamp(low, high)
    return (y + (y.round() - y).detach()) * s


FAKE_QUANTIZE = Exercise(
    id="qat.fake_quantize",
    title="Fake quantization that can be trained",
    points=3,
    reference=fake_quantize,
    cases=_fake_cases,
    lines=3,
    tolerance=1e-5,
    harness=with_gradient,
    mistakes=(
        Mistake(
            "not straight through",
            lambda x, s, low, high: _detached(x, s, low, high, "nothing"),
            "The numbers are right and the gradient is 0: torch differentiated round(). Add the "
            "rounding error as a constant: y + (round(y) - y).detach().",
        ),
        Mistake(
            "clipping passes the gradient",
            lambda x, s, low, high: _detached(x, s, low, high, "everything"),
            "The gradient also passes where x is clipped. Let torch differentiate clamp(), and detach "
            "the rounding only.",
        ),
        Mistake(
            "clamped before rounding",
            _clamped_first,
            "The numbers are right. But up to half a step beyond the last code x still rounds inside, and "
            "clamp stops the gradient there already: decide by the rounded code.",
            also=(lambda x, s, low, high: _clamped_first(x, s, low, high, reals=True),),
        ),
        Mistake(
            "not rounded",
            lambda x, s, low, high: _steps(x, s).clamp(low, high) * s,
            "You clipped, but did not round.",
        ),
        Mistake(
            "clipping forgotten",
            lambda x, s, low, high: (
                (_steps(x, s) + (_steps(x, s).round() - _steps(x, s)).detach()) * s
            ),
            "Values beyond low and high were not clipped.",
        ),
        Mistake(
            "not scaled back",
            lambda x, s, low, high: (
                _steps(x, s).clamp(low, high)
                + (_steps(x, s).clamp(low, high).round() - _steps(x, s).clamp(low, high)).detach()
            ),
            "These are codes. Fake quantization gives the numbers they stand for: times the scale.",
        ),
    ),
)


# ---- learned steps -------------------------------------------------------------------------------
def lsq_gradient(
    x: torch.Tensor, scale: float, low: int, high: int, grad: torch.Tensor
) -> torch.Tensor:
    """The library's backward pass with respect to the scale; a scalar."""
    step = torch.tensor(scale, dtype=torch.float32, requires_grad=True)
    ste.fake_quantize(x, step, torch.tensor(0.0), low, high).backward(grad)
    return step.grad


def _lsq(x, s, low, high, g, *, inside=True, minus=True, factor=True, mean=False):
    v = _steps(x, s)
    q = v.round()
    slope = (q - v if minus else q) if inside else torch.zeros_like(v)
    slope = torch.where(q < low, torch.tensor(float(low)), slope)
    slope = torch.where(q > high, torch.tensor(float(high)), slope)
    total = (g * slope).mean() if mean else (g * slope).sum()
    return total / (x.numel() * high) ** 0.5 if factor else total


def _slope(x, s, low, high, sign, outside=1):
    v = _steps(x, s)
    q = v.round()
    inside = (q >= low) & (q <= high)
    return torch.where(inside, sign * (q - v), outside * q.clamp(low, high))


def _lsq_slope(x, low, high, g, slope):
    return (g * slope).sum() / (x.numel() * high) ** 0.5


def _lsq_cases(generator: np.random.Generator) -> list[Case]:
    def numbers(count: int, spread: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, spread, count).astype(np.float32))

    return [
        Case("one number inside", (torch.tensor([0.3]), 0.5, -4, 3, torch.ones(1))),
        Case("one above", (torch.tensor([9.0]), 0.5, -4, 3, torch.ones(1))),
        Case("one below", (torch.tensor([-9.0]), 0.5, -4, 3, torch.ones(1))),
        Case("random", (numbers(40, 2.0), 0.4, -7, 7, numbers(40))),
        Case("2 bits", (numbers(30), 0.7, -1, 1, numbers(30))),
    ]


def _many_weights(generator: np.random.Generator) -> Case:
    x = torch.from_numpy(generator.normal(0, 1, 100_000).astype(np.float32))
    grad = torch.from_numpy(generator.uniform(0, 1, 100_000).astype(np.float32))
    return Case("100,000 weights", (x, 0.3, -8, 7, grad * x.sign()))


LSQ_GRADIENT = Exercise(
    id="qat.lsq_gradient",
    title="The gradient of a learned step",
    points=3,
    reference=lsq_gradient,
    cases=_lsq_cases,
    large=_many_weights,
    lines=6,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "inside forgotten",
            lambda *a: _lsq(*a, inside=False),
            "Inside the range a wider step moves the rounding error: there the slope is round(v) - v.",
        ),
        Mistake(
            "code instead of error",
            lambda *a: _lsq(*a, minus=False),
            "x' = round(x / s) * s. Differentiate the product: round(v), and minus v from inside.",
        ),
        Mistake(
            "minus v outside as well",
            lambda x, s, low, high, g: _lsq_slope(
                x, low, high, g, _steps(x, s).round().clamp(low, high) - _steps(x, s)
            ),
            "Where x is clipped the slope is low or high alone: no minus v there.",
        ),
        Mistake(
            "sign reversed",
            lambda x, s, low, high, g: _lsq_slope(x, low, high, g, _slope(x, s, low, high, -1)),
            "round(v) - v, not v - round(v).",
        ),
        Mistake(
            "nothing where clipped",
            lambda x, s, low, high, g: _lsq_slope(x, low, high, g, _slope(x, s, low, high, 1, 0)),
            "A clipped number still pulls: x' = high * s grows with s.",
        ),
        Mistake(
            "incoming gradient ignored",
            lambda x, s, low, high, g: _lsq(x, s, low, high, torch.ones_like(g)),
            "Multiply each slope by its incoming gradient.",
        ),
        Mistake(
            "not scaled",
            lambda *a: _lsq(*a, factor=False),
            "All numbers pull on one step: multiply the sum by g = 1 / sqrt(n * high).",
        ),
        Mistake(
            "mean",
            lambda *a: _lsq(*a, mean=True),
            "Sum over all numbers that share the step; g takes care of their count.",
        ),
    ),
)


# ---- stochastic rounding -------------------------------------------------------------------------
def stochastic_round(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Up with the probability of the fraction: floor(x + noise), noise uniform in [0, 1)."""
    return np.floor(x + noise)


def _noise_cases(generator: np.random.Generator) -> list[Case]:
    x = generator.normal(0, 3, 50).astype(np.float32)
    return [
        Case("a quarter", (f32([0.25, 0.25, 0.25]), f32([0.1, 0.7, 0.8]))),
        Case("negative numbers", (f32([-0.25, -0.25, -1.5]), f32([0.1, 0.3, 0.6]))),
        Case("whole numbers stay", (f32([2.0, -3.0, 0.0]), f32([0.0, 0.99, 0.5]))),
        Case("random", (x, generator.random(50).astype(np.float32))),
    ]


def _many_roundings(generator: np.random.Generator) -> Case:
    x = generator.integers(-80, 80, 5_000_000).astype(np.float32) / 8
    noise = (generator.integers(0, 16, len(x)) / 16 + 1 / 32).astype(np.float32)
    return Case("five million numbers", (x, noise))


STOCHASTIC_ROUND = Exercise(
    id="qat.stochastic_round",
    title="Rounding that is right on average",
    points=1,
    reference=stochastic_round,
    cases=_noise_cases,
    large=_many_roundings,
    lines=1,
    mistakes=(
        Mistake(
            "nearest",
            lambda x, u: np.rint(x),
            "The noise is not used: a gradient of 0.25 becomes 0 every time.",
        ),
        Mistake(
            "rounded after the noise",
            lambda x, u: np.rint(x + u),
            "Rounding x + u goes up too often, by half a step on average. Which rounding goes only down?",
        ),
        Mistake(
            "towards zero",
            lambda x, u: np.trunc(x + u),
            "Truncation rounds negative numbers up: np.floor rounds all of them down.",
        ),
        Mistake(
            "probability upside down",
            lambda x, u: np.where(u < x - np.floor(x), np.floor(x), np.ceil(x)),
            "The larger the fraction, the more often it must go up.",
        ),
        Mistake(
            "the other half of the noise",
            lambda x, u: np.floor(x) + (u < x - np.floor(x)),
            "Right on average too! Here, so that answers can be compared, noise of 1 - fraction or more goes "
            "up: add the noise before you round down.",
        ),
    ),
)


# ---- deployment ----------------------------------------------------------------------------------
def requantization(
    scale_x: float,
    scale_w: torch.Tensor,
    scale_y: float,
    gain: torch.Tensor,
    shift: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Multiplier and integer bias of each channel, the batch norm included."""
    one = torch.ones_like(gain)[:, None]
    factor, bias = folding.fold_batch_norm(one, None, gain, shift, mean, variance, epsilon)
    scale = scale_x * scale_w * factor[:, 0]
    return scale / scale_y, torch.round(bias / scale).to(torch.int32)


SCALE_X = 0.02


def _between_codes(values: dict[str, torch.Tensor], epsilon: float) -> torch.Tensor:
    """Shifts whose biases lie a quarter from an integer: in which order one multiplies does not matter."""
    exact = {name: value.double() for name, value in values.items()}
    factor = exact["gain"] / torch.sqrt(exact["variance"] + epsilon)
    unit = SCALE_X * exact["scale_w"] * factor
    code = (exact["shift"] - exact["mean"] * factor) / unit
    quarter = torch.where(code - code.floor() < 0.5, 0.25, 0.75)
    return ((code.floor() + quarter) * unit + exact["mean"] * factor).float()


def _norm_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, channels: int, epsilon: float = 1e-5, **fixed: torch.Tensor) -> Case:
        def numbers(low: float, high: float) -> torch.Tensor:
            return torch.from_numpy(generator.uniform(low, high, channels).astype(np.float32))

        values = {
            "scale_w": numbers(0.001, 0.01),
            "gain": numbers(0.5, 2),
            "shift": numbers(-1, 1),
            "mean": numbers(-1, 1),
            "variance": numbers(0.2, 3),
        } | fixed
        values["shift"] = _between_codes(values, epsilon)
        order = ("gain", "shift", "mean", "variance")
        rest = tuple(values[name] for name in order)
        return Case(label, (SCALE_X, values["scale_w"], 0.05, *rest, epsilon))

    return [
        case("one channel", 1),
        case("a negative gain", 2, gain=torch.tensor([-1.0, 1.5])),
        case("no mean, unit variance", 2, mean=torch.zeros(2), variance=torch.ones(2)),
        case("eight channels", 8),
        case("a large epsilon", 3, epsilon=0.5),
    ]


def _requantization(sx, sw, sy, g, b, m, v, e, *, units="x", out=True, rounded=True, mean=True):
    factor = g / torch.sqrt(v + e)
    scale = sx * sw * factor
    bias = b - (m * factor if mean else 0)
    unit = {"x": scale, "y": torch.full_like(scale, sy), "raw": sx * sw}[units]
    bias = bias / unit
    bias = torch.round(bias) if rounded else torch.trunc(bias)
    return scale / sy if out else scale, bias.to(torch.int32)


def _many_channels(generator: np.random.Generator) -> Case:
    def numbers(low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(generator.uniform(low, high, 40_000).astype(np.float32))

    ranges = {"scale_w": (0.001, 0.01), "gain": (0.5, 2), "shift": (-1, 1), "mean": (-1, 1)}
    values = {name: numbers(*ends) for name, ends in (ranges | {"variance": (0.2, 3)}).items()}
    values["shift"] = _between_codes(values, 1e-5)
    rest = tuple(values[name] for name in ("gain", "shift", "mean", "variance"))
    return Case("40,000 channels", (SCALE_X, values["scale_w"], 0.05, *rest, 1e-5))


REQUANTIZATION = Exercise(
    id="qat.requantization",
    title="A batch norm as a multiplier and an integer bias",
    points=2,
    reference=requantization,
    cases=_norm_cases,
    large=_many_channels,
    lines=4,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "output scale forgotten",
            lambda *a: _requantization(*a, out=False),
            "The multiplier leads from sums to the next layer's codes: divide by scale_y.",
        ),
        Mistake(
            "bias in output steps",
            lambda *a: _requantization(*a, units="y"),
            "The bias is added to the sum, before the multiplier: count it in the sum's units.",
        ),
        Mistake(
            "bias before the norm",
            lambda *a: _requantization(*a, units="raw"),
            "The sum is multiplied by the norm's factor as well: its unit is scale_x * scale_w * factor.",
        ),
        Mistake(
            "mean forgotten",
            lambda *a: _requantization(*a, mean=False),
            "The norm subtracts its mean first: the bias is shift - mean * factor.",
        ),
        Mistake(
            "the shift scaled as well",
            lambda sx, sw, sy, g, b, m, v, e: _requantization(
                sx, sw, sy, g, b * g / torch.sqrt(v + e), m, v, e
            ),
            "Only the mean is multiplied by t; the shift is added after the norm.",
        ),
        Mistake(
            "bias not in units of the sum",
            lambda sx, sw, sy, g, b, m, v, e: (
                sx * sw * g / torch.sqrt(v + e) / sy,
                torch.round(b - m * g / torch.sqrt(v + e)).to(torch.int32),
            ),
            "Count the bias in units of scale_x * scale_w * t.",
        ),
        Mistake(
            "epsilon forgotten",
            lambda *a: _requantization(*a[:-1], 0.0),
            "Batch norm divides by the root of variance + epsilon.",
        ),
        Mistake(
            "truncated",
            lambda *a: _requantization(*a, rounded=False),
            "Converting to an integer truncates. Round first.",
        ),
    ),
)

EXERCISES = (STE_GRADIENT, FAKE_QUANTIZE, LSQ_GRADIENT, STOCHASTIC_ROUND, REQUANTIZATION)
