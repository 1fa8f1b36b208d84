"""Lab 01: bf16 by bits, scales and zero points, codes, decibels, packing, and a compiled loop."""

import math
from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import into_new_array
from compresslab.kernels import affine as kernels
from compresslab.kernels import bitpack
from compresslab.numerics import affine, error, formats


# ---- bf16 ----------------------------------------------------------------------------------------
def _bits(values: list[float]) -> torch.Tensor:
    patterns = np.array(values, np.float32).view(np.uint32)
    return torch.from_numpy(patterns.astype(np.int64))


def _bf16_cases(generator: np.random.Generator) -> list[Case]:
    halves = torch.tensor([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF])
    random = torch.from_numpy(generator.integers(0, 0x7F000000, 50))
    return [
        Case("1.0, -2.0 and 0.5: exact in bf16", (_bits([1.0, -2.0, 0.5]),)),
        Case("pi", (_bits([math.pi]),)),
        Case("ties (to even), just above and just below", (halves,)),
        Case("zero, minus zero, infinity", (_bits([0.0, -0.0, math.inf, -math.inf]),)),
        Case("rounds up into the exponent", (_bits([1.999999, 3.3e38]),)),
        Case("random", (random,)),
        Case("no numbers", (torch.zeros(0, dtype=torch.int64),)),
    ]


def _many_patterns(generator: np.random.Generator) -> Case:
    patterns = generator.integers(0, 0x7F000000, 1_500_000)
    return Case("a million and a half numbers", (torch.from_numpy(patterns),))


TO_BF16_BITS = Exercise(
    id="numbers.to_bf16_bits",
    title="fp32 to bf16 by bits",
    points=2,
    reference=formats.to_bf16_bits,
    digits=16,
    cases=_bf16_cases,
    large=_many_patterns,
    lines=2,
    mistakes=(
        Mistake(
            "truncated",
            lambda bits: bits >> 16,
            "You cut the lower half off, which rounds towards zero. Round to the nearest: add something "
            "before the shift.",
        ),
        Mistake(
            "ties up",
            lambda bits: (bits + 0x8000) >> 16,
            "Right except on ties, which must go to the even neighbour. What you add must depend on the "
            "lowest bit that is kept.",
        ),
        Mistake(
            "ties down",
            lambda bits: (bits + 0x7FFF) >> 16,
            "Right except on ties, which must go to the even neighbour. What you add must depend on the "
            "lowest bit that is kept.",
        ),
        Mistake(
            "not shifted",
            lambda bits: (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000,
            "These are the right bits in the wrong place: bf16 has 16 bits, so shift them down.",
        ),
        Mistake(
            "lower half",
            lambda bits: bits & 0xFFFF,
            "That is the half to be dropped. Sign and exponent are in the upper half.",
        ),
    ),
)


# ---- scale and zero point ------------------------------------------------------------------------
def _range_cases(generator: np.random.Generator) -> list[Case]:
    lo = torch.from_numpy(-generator.uniform(0.1, 5, 8).astype(np.float32))
    hi = torch.from_numpy(generator.uniform(0.1, 5, 8).astype(np.float32))
    return [
        Case("-1 to 3 on 8 unsigned bits", (torch.tensor(-1.0), torch.tensor(3.0), 0, 255)),
        Case("-1 to 3 on 8 signed bits", (torch.tensor(-1.0), torch.tensor(3.0), -128, 127)),
        Case("2 to 4: zero is outside", (torch.tensor(2.0), torch.tensor(4.0), 0, 15)),
        Case("-4 to -2: zero is outside", (torch.tensor(-4.0), torch.tensor(-2.0), 0, 15)),
        Case("eight ranges at once", (lo, hi, 0, 15)),
        Case("3 to 3: a constant", (torch.tensor(3.0), torch.tensor(3.0), 0, 255)),
    ]


def _or(bound: int | None, default: int) -> int:
    return default if bound is None else bound


def _scale_of(lo: torch.Tensor, hi: torch.Tensor, steps: int) -> torch.Tensor:
    return (hi - lo) / steps


def _without_zero(lo, hi, low, high, least=None, most=None) -> tuple:
    scale = _scale_of(lo, hi, high - low).clamp(min=1e-30)
    return scale, torch.round(low - lo / scale).clamp(_or(least, low), _or(most, high)).int()


def _widened(lo: torch.Tensor, hi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return lo.clamp(max=0.0), hi.clamp(min=0.0)


def _counted_levels(lo, hi, low, high, least=None, most=None) -> tuple:
    lo, hi = _widened(lo, hi)
    scale = _scale_of(lo, hi, high - low + 1)
    return scale, torch.round(low - lo / scale).clamp(_or(least, low), _or(most, high)).int()


def _sign_lost(lo, hi, low, high, least=None, most=None) -> tuple:
    lo, hi = _widened(lo, hi)
    scale = _scale_of(lo, hi, high - low)
    return scale, torch.round(low + lo / scale).clamp(_or(least, low), _or(most, high)).int()


def _low_forgotten(lo, hi, low, high, least=None, most=None) -> tuple:
    lo, hi = _widened(lo, hi)
    scale = _scale_of(lo, hi, high - low)
    return scale, torch.round(-lo / scale).clamp(_or(least, low), _or(most, high)).int()


def _not_rounded(lo, hi, low, high, least=None, most=None) -> tuple:
    lo, hi = _widened(lo, hi)
    scale = _scale_of(lo, hi, high - low)
    return scale, (low - lo / scale).clamp(_or(least, low), _or(most, high)).int()


def _unclamped(mistake: Callable) -> Callable:
    """The same mistake by somebody who, with the formula alone, does not clamp the zero point."""

    def made(lo: torch.Tensor, hi: torch.Tensor, low: int, high: int) -> tuple:
        return mistake(lo, hi, low, high, -(2**30), 2**30)

    return made


def _many_ranges(generator: np.random.Generator) -> Case:
    lo, hi = torch.from_numpy(generator.uniform(0.5, 2, (2, 2_000)).astype(np.float32))
    return Case("2,000 channels", (-lo, hi, -128, 127))


AFFINE_QPARAMS = Exercise(
    id="numbers.affine_qparams",
    title="Scale and zero point",
    points=2,
    reference=affine.affine_qparams,
    cases=_range_cases,
    large=_many_ranges,
    lines=4,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "zero outside",
            _without_zero,
            "0.0 must have a code of its own (padding, ReLU). Widen the range to hold it first: "
            "lo <= 0 <= hi.",
            (_unclamped(_without_zero),),
        ),
        Mistake(
            "counted levels",
            _counted_levels,
            "Between n codes there are n - 1 steps: divide by high - low.",
        ),
        Mistake(
            "sign lost",
            _sign_lost,
            "lo must land on the code low: low = lo / s + z. Solve that for z; mind the sign.",
            (_unclamped(_sign_lost),),
        ),
        Mistake(
            "low forgotten",
            _low_forgotten,
            "The smallest code is low, which is not 0 on a signed grid: z = low - lo / s.",
        ),
        Mistake("truncated", _not_rounded, "Converting to an integer truncates. Round first."),
    ),
)


# ---- codes ---------------------------------------------------------------------------------------
def quantize(x: np.ndarray, scale: float, zero_point: int, low: int, high: int) -> np.ndarray:
    """Codes as int32, from the library's kernel."""
    return kernels.quantize(x, scale, zero_point, low, high).astype(np.int32)


def _code_cases(generator: np.random.Generator) -> list[Case]:
    def array(values: list[float]) -> np.ndarray:
        return np.array(values, np.float32)

    random = generator.normal(0, 2, (3, 7)).astype(np.float32)
    return [
        Case("a few numbers", (array([-1.0, -0.2, 0.0, 0.3, 0.9]), 0.25, 0, -128, 127)),
        Case("ties go to even", (array([-1.25, -0.75, -0.25, 0.25, 0.75, 1.25]), 0.5, 0, -8, 7)),
        Case("ties with an odd zero point", (array([-0.75, -0.25, 0.25, 0.75]), 0.5, 3, 0, 15)),
        Case("far outside: saturates", (array([-1e9, 1e9, 300.0]), 0.1, 0, -128, 127)),
        Case("saturates beside a zero point", (array([-3.0, 0.0, 3.0]), 0.1, 10, 0, 15)),
        Case("two dimensions", (random, 0.07, 5, 0, 15)),
        Case("no numbers", (array([]), 0.1, 0, -8, 7)),
        Case(
            "infinities",
            (array([-math.inf, math.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 0.1, 0, -8, 7),
        ),
    ]


def _many_codes(generator: np.random.Generator) -> Case:
    # The scale is a power of two: every way to divide by it gives the same number.
    x = generator.integers(-400, 400, (50, 1000)).astype(np.float32) / 64
    return Case("fifty thousand weights", (x, 0.25, 7, 0, 15))


def _steps(x: np.ndarray, scale: float) -> np.ndarray:
    return x * (np.float32(1) / np.float32(scale))


def _clip(code: np.ndarray, low: int, high: int) -> np.ndarray:
    return np.clip(code, low, high).astype(np.int32)


def _rounded_first(x: np.ndarray, s: float, z: int, low: int, high: int) -> np.ndarray:
    return _clip(np.rint(_steps(np.rint(x), s)) + z, low, high)


def _clipped_early(x: np.ndarray, s: float, z: int, low: int, high: int) -> np.ndarray:
    return (np.clip(np.rint(_steps(x, s)), low, high) + z).astype(np.int32)


def _wrapped(x: np.ndarray, s: float, z: int, low: int, high: int) -> np.ndarray:
    code = np.nan_to_num(
        np.rint(_steps(x, s)).astype(np.float64), posinf=2.0**31, neginf=-(2.0**31)
    )
    return ((code + z - low) % (high - low + 1) + low).astype(np.int32)


def _unclipped(x: np.ndarray, s: float, z: int, low: int, high: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (np.rint(_steps(x, s)) + z).astype(np.int32)


QUANTIZE = Exercise(
    id="numbers.quantize",
    title="Real numbers to codes",
    points=2,
    reference=quantize,
    cases=_code_cases,
    large=_many_codes,
    lines=2,
    mistakes=(
        Mistake(
            "rounded first",
            _rounded_first,
            "You rounded x before dividing by the scale. The scale is the size of a step: count "
            "steps, then round.",
        ),
        Mistake(
            "truncated",
            lambda x, s, z, low, high: _clip(np.trunc(_steps(x, s)) + z, low, high),
            "Conversion to an integer cuts towards zero, twice the error of rounding: np.rint first.",
        ),
        Mistake(
            "ties away from even",
            lambda x, s, z, low, high: _clip(
                np.floor(_steps(x, s) + np.float32(0.5)) + z, low, high
            ),
            "floor(x + 0.5) sends every tie upwards, a bias that adds up. np.rint sends ties to even.",
        ),
        Mistake(
            "zero point too early",
            lambda x, s, z, low, high: _clip(np.rint(_steps(x, s) + z), low, high),
            "With an odd zero point, adding it before rounding turns ties the other way: round, then add.",
        ),
        Mistake(
            "clipped too early",
            _clipped_early,
            "The sum with the zero point may leave low..high again: clip last.",
        ),
        Mistake(
            "wrapped around",
            _wrapped,
            "Numbers outside the range came back in on the other side: clip to low..high.",
        ),
        Mistake(
            "not clipped",
            _unclipped,
            "Codes outside low..high must saturate: np.clip, before converting to int32.",
            also=(
                lambda x, s, z, low, high: np.clip(_unclipped(x, s, 0, low, high), -(2**31), high),
            ),
        ),
        Mistake(
            "zero point forgotten",
            lambda x, s, z, low, high: _clip(np.rint(_steps(x, s)), low, high),
            "The code of 0.0 is zero_point: add it after rounding.",
        ),
        Mistake(
            "multiplied by the scale",
            lambda x, s, z, low, high: _clip(np.rint(x * np.float32(s)) + z, low, high),
            "How many steps of size s fit into x? Divide by the scale.",
        ),
    ),
)


# ---- one scale a channel -------------------------------------------------------------------------
def channel_scales(weight: torch.Tensor, high: int) -> torch.Tensor:
    """Symmetric scales, one for each output channel, from the library."""
    lo, hi = affine.minmax(weight, axis=0)
    return (torch.maximum(-lo, hi) / high).clamp(min=float(affine.SMALLEST_SCALE))


def _weight_cases(generator: np.random.Generator) -> list[Case]:
    def weight(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.normal(0, 1, shape).astype(np.float32))

    return [
        Case("a linear layer of 2 outputs and 3 inputs", (weight(2, 3), 7)),
        Case("a square one", (weight(4, 4), 7)),
        Case("a convolution", (weight(4, 3, 3, 3), 127)),
        Case("one output channel", (weight(1, 5), 7)),
        Case("all negative", (-weight(3, 4).abs() - 1, 7)),
        Case("a view that is not contiguous", (weight(5, 3).T, 7)),
    ]


def _many_weights(generator: np.random.Generator) -> Case:
    weight = torch.from_numpy(generator.normal(0, 1, (300, 1_000)).astype(np.float32))
    return Case("300,000 weights", (weight, 127))


CHANNEL_SCALES = Exercise(
    id="numbers.channel_scales",
    title="One scale for each output channel",
    points=1,
    reference=channel_scales,
    cases=_weight_cases,
    large=_many_weights,
    lines=1,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "per input",
            lambda w, high: w.abs().flatten(1).amax(0) / high,
            "You took the maximum over the output channels. Keep axis 0, reduce all the others.",
        ),
        Mistake(
            "per tensor",
            lambda w, high: (w.abs().amax() / high).expand(w.shape[0]).clone(),
            "That is one scale for the whole tensor, repeated. Reduce every axis but the first.",
        ),
        Mistake(
            "sign ignored",
            lambda w, high: w.flatten(1).amax(1) / high,
            "A large negative weight needs room too: take absolute values first.",
        ),
        Mistake(
            "one axis only",
            lambda w, high: w.abs().amax(1) / high,
            "A convolution's weight has four axes: reduce all but the first, flatten(1) to begin with.",
        ),
        Mistake(
            "counted levels",
            lambda w, high: w.abs().flatten(1).amax(1) / (high + 1),
            "The largest weight must land on the code high: divide by high.",
        ),
    ),
)


# ---- decibels ------------------------------------------------------------------------------------
def _noise_cases(generator: np.random.Generator) -> list[Case]:
    x = torch.from_numpy(generator.normal(0, 3, 100).astype(np.float32))
    return [
        Case("a tenth too large", (torch.tensor([1.0, -2.0]), torch.tensor([1.1, -2.2]))),
        Case("one number", (torch.tensor([4.0]), torch.tensor([3.0]))),
        Case("worse than nothing", (torch.tensor([0.1, 0.2]), torch.tensor([1.0, -1.0]))),
        Case("rounded to integers", (x, torch.round(x))),
        Case("a convolution's weight", (x.reshape(5, 5, 2, 2), torch.round(x).reshape(5, 5, 2, 2))),
        Case("no error at all: infinite", (x, x.clone())),
    ]


def _ratio(signal: torch.Tensor, noise: torch.Tensor) -> float:
    signal, noise = float(signal), float(noise)
    return math.inf if noise == 0 else signal / noise


def _decibels(factor: float, ratio: float) -> float:
    return factor * math.log10(ratio) if ratio > 0 else -math.inf


def _many_numbers(generator: np.random.Generator) -> Case:
    x = torch.from_numpy(generator.normal(0, 1, 300_000).astype(np.float32))
    return Case("300,000 numbers", (x, (x * 8).round() / 8))


SQNR_DB = Exercise(
    id="numbers.sqnr_db",
    title="Signal-to-quantization-noise ratio",
    points=1,
    reference=error.sqnr_db,
    cases=_noise_cases,
    large=_many_numbers,
    lines=3,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "20 instead of 10",
            lambda x, y: _decibels(20, _ratio(x.square().mean(), (x - y).square().mean())),
            "20 log10 is for amplitudes. You have powers (squares) already: 10 log10.",
        ),
        Mistake(
            "upside down",
            lambda x, y: -_decibels(10, _ratio(x.square().mean(), (x - y).square().mean())),
            "More noise must give fewer decibels: the signal is above, the noise below.",
        ),
        Mistake(
            "absolute values",
            lambda x, y: _decibels(10, _ratio(x.abs().mean(), (x - y).abs().mean())),
            "Power is the mean of the squares, not of the absolute values.",
        ),
        Mistake(
            "natural logarithm",
            lambda x, y: 10 * math.log(_ratio(x.square().mean(), (x - y).square().mean())),
            "Decibels use the logarithm to base 10.",
        ),
    ),
)


# ---- packing -------------------------------------------------------------------------------------
def pack4(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte, from the library's kernel."""
    return bitpack.pack(codes, 4)


def _pack_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("two codes", (np.array([1, 2], np.uint8),)),
        Case("an odd number of codes", (np.array([3, 15, 7], np.uint8),)),
        Case("one code", (np.array([9], np.uint8),)),
        Case("no codes", (np.zeros(0, np.uint8),)),
        Case("every second element of an array", (np.arange(16, dtype=np.uint8)[::2],)),
        Case("random", (generator.integers(0, 16, 101).astype(np.uint8),)),
    ]


def _many_nibbles(generator: np.random.Generator) -> Case:
    codes = generator.integers(0, 16, 12_000_001).astype(np.uint8)
    return Case("twelve million codes", (codes,))


def _even(codes: np.ndarray) -> np.ndarray:
    return np.append(codes, np.zeros(codes.size % 2, np.uint8))


def _swapped(codes: np.ndarray) -> np.ndarray:
    codes = _even(codes)
    return codes[0::2] << 4 | codes[1::2]


def _dropped(codes: np.ndarray) -> np.ndarray:
    codes = codes[: codes.size // 2 * 2]
    return codes[0::2] | codes[1::2] << 4


def _overlaid(codes: np.ndarray) -> np.ndarray:
    codes = _even(codes)
    return codes[0::2] | codes[1::2]


def _halves(codes: np.ndarray) -> np.ndarray:
    codes = _even(codes)
    half = codes.size // 2
    return codes[:half] | codes[half:] << 4


PACK4 = Exercise(
    id="numbers.pack4",
    digits=8,
    title="Two codes in one byte",
    points=2,
    reference=pack4,
    cases=_pack_cases,
    large=_many_nibbles,
    lines=3,
    mistakes=(
        Mistake(
            "nibbles swapped",
            _swapped,
            "The first code belongs in the lower four bits: shift the second one.",
        ),
        Mistake(
            "last code dropped",
            _dropped,
            "With an odd number of codes the last one still needs a byte: pad with a zero.",
            also=(lambda codes: codes[0::2] | (codes[1::2] << 4),),
        ),
        Mistake(
            "not shifted",
            _overlaid,
            "Both codes are in the same four bits. Shift one of them by 4.",
        ),
        Mistake(
            "halves",
            _halves,
            "You paired the first half with the second. Neighbours share a byte: codes 0 and 1, "
            "2 and 3, ...",
        ),
        Mistake("not packed", lambda codes: codes.copy(), "There is still one byte for each code."),
    ),
)


# ---- a compiled loop -----------------------------------------------------------------------------
def quantize_loop(
    x: np.ndarray, inverse: float, zero: float, low: float, high: float, codes: np.ndarray
) -> None:
    """Write the code of every x into `codes`, from the library's kernel."""
    kernels._quantize_run(x, 0, x.size, inverse, zero, low, high, codes, 0)


def _loop_cases(generator: np.random.Generator) -> list[Case]:
    random = generator.normal(0, 30, 100).astype(np.float32)
    return [
        Case("three numbers", (np.array([-1.0, 0.3, 2.0], np.float32), 4.0, 0, -8, 7)),
        Case("ties go to even", (np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), 1.0, 0, -8, 7)),
        Case("far outside", (np.array([-1e9, 1e9], np.float32), 10.0, 0, -128, 127)),
        Case("a zero point", (random, 0.5, 3, -128, 127)),
        Case(
            "ties with an odd zero point",
            (np.array([0.5, 1.5, -0.5, 2.5], np.float32), 1.0, 3, -8, 7),
        ),
        Case("saturates beside a zero point", (np.array([-9.0, 9.0], np.float32), 1.0, 5, -8, 7)),
        Case("no numbers", (np.zeros(0, np.float32), 1.0, 0, -8, 7)),
    ]


def _loop_with(code_of: Callable) -> Callable:
    def loop(x, inverse, zero, low, high, codes):
        for i in range(x.size):
            code = int(code_of(float(x[i] * inverse), zero, low, high))
            codes[i] = np.int64(code).astype(np.int8)

    return loop


def _first_only(x, inverse, zero, low, high, codes):
    for i in range(x.size - 1):
        codes[i] = np.int8(min(max(np.rint(x[i] * inverse) + zero, low), high))


QUANTIZE_LOOP = Exercise(
    id="numbers.quantize_loop",
    title="The quantize loop, compiled",
    points=2,
    reference=quantize_loop,
    cases=_loop_cases,
    lines=4,
    harness=into_new_array,
    compiled=True,
    mistakes=(
        Mistake(
            "truncated",
            _loop_with(lambda v, z, low, high: min(max(math.trunc(v) + z, low), high)),
            "Writing a float into an int8 array truncates. Round with np.rint first.",
        ),
        Mistake(
            "not clipped",
            _loop_with(lambda v, z, low, high: np.rint(v) + z),
            "Codes outside low..high wrap around in int8. Compare with low and high before storing.",
        ),
        Mistake(
            "ties up",
            _loop_with(lambda v, z, low, high: min(max(math.floor(v + 0.5) + z, low), high)),
            "Adding 0.5 sends every tie upwards. np.rint sends ties to even.",
        ),
        Mistake(
            "zero point too early",
            _loop_with(lambda v, z, low, high: min(max(np.rint(v + z), low), high)),
            "With an odd zero point, adding it before rounding turns ties the other way: round, then add.",
        ),
        Mistake(
            "clipped too early",
            _loop_with(lambda v, z, low, high: min(max(np.rint(v), low), high) + z),
            "The sum with the zero point may leave low..high again: compare last.",
        ),
        Mistake(
            "codes not written",
            lambda x, inverse, zero, low, high, codes: None,
            "The array `codes` came back as it was. Store each code in codes[i]; returning or "
            "rebinding it changes nothing for the caller.",
        ),
        Mistake(
            "one short",
            _first_only,
            "The last element was not written: the loop must run over range(x.size).",
        ),
    ),
)

EXERCISES = (
    TO_BF16_BITS,
    AFFINE_QPARAMS,
    QUANTIZE,
    CHANNEL_SCALES,
    SQNR_DB,
    PACK4,
    QUANTIZE_LOOP,
)
