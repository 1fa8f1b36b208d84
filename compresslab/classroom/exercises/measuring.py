"""Lab 00: bytes, MACs, time and the roofline."""

from collections.abc import Callable

import numpy as np

from compresslab import measure
from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.harnesses import on_fake_machine
from compresslab.kernels import bitpack


# ---- bytes ---------------------------------------------------------------------------------------
def _bytes_cases(generator: np.random.Generator) -> list[Case]:
    count = int(generator.integers(1000, 9999))
    return [
        Case("8 weights of 1 bit", (8, 1)),
        Case("3 weights of 3 bits: 9 bits need 2 bytes", (3, 3)),
        Case("no weights", (0, 4)),
        Case("an odd number of 4-bit weights", (101, 4)),
        Case("random", (count, 5)),
        Case("a million weights and three", (1_000_003, 7)),
    ]


def _many_bits(generator: np.random.Generator) -> Case:
    count = int(generator.integers(14_000_000, 16_000_000))
    return Case("fifteen million parameters", (count, 5))


def parameter_bytes(parameters: int, bits: int) -> int:
    """Whole bytes that so many parameters take at `bits` bits each, packed without gaps."""
    return bitpack.packed_size(parameters, bits)


PARAMETER_BYTES = Exercise(
    id="measuring.parameter_bytes",
    title="Bytes of packed parameters",
    points=1,
    reference=parameter_bytes,
    cases=_bytes_cases,
    large=_many_bits,
    lines=1,
    mistakes=(
        Mistake("bits", lambda n, bits: n * bits, "That is the number of bits. A byte has 8."),
        Mistake(
            "rounded down",
            lambda n, bits: n * bits // 8,
            "The last bits need a byte too, even if they do not fill it: round up.",
        ),
        Mistake(
            "whole bytes each",
            lambda n, bits: n * ((bits + 7) // 8),
            "You gave every weight whole bytes. Packed weights share bytes: round up once, at the end.",
        ),
        Mistake(
            "not an integer",
            lambda n, bits: n * bits / 8,
            "A file has a whole number of bytes: round up, and return an int.",
        ),
    ),
)


# ---- MACs ----------------------------------------------------------------------------------------
def _linear_cases(generator: np.random.Generator) -> list[Case]:
    inputs, outputs = (int(v) for v in generator.integers(5, 500, 2))
    return [
        Case("2 inputs, 3 outputs", (2, 3, 1)),
        Case("applied at 5 positions", (2, 3, 5)),
        Case("one weight", (1, 1, 1)),
        Case("random", (inputs, outputs, 7)),
        Case("GPT-3's feed-forward layer over 2,048 tokens", (12_288, 49_152, 2048)),
    ]


def _many_rows(generator: np.random.Generator) -> Case:
    inputs, outputs = (int(n) for n in generator.integers(6_000, 7_000, 2))
    return Case("six thousand outputs at ten thousand positions", (inputs, outputs, 10_007))


LINEAR_MACS = Exercise(
    id="measuring.linear_macs",
    title="MACs of a linear layer",
    points=1,
    reference=measure.linear_macs,
    cases=_linear_cases,
    large=_many_rows,
    lines=1,
    mistakes=(
        Mistake(
            "one position",
            lambda i, o, p: i * o,
            "The layer runs once at every position (every token): multiply by positions.",
        ),
        Mistake(
            "counted the bias",
            lambda i, o, p: p * (i + 1) * o,
            "The bias is added, not multiplied: inputs * outputs products, no more.",
        ),
        Mistake(
            "FLOPs",
            lambda i, o, p: 2 * p * i * o,
            "You counted multiplications and additions apart. One MAC is both together.",
        ),
    ),
)


def _conv_cases(generator: np.random.Generator) -> list[Case]:
    c, n, h, w = (int(v) for v in generator.integers(3, 40, 4))
    return [
        Case("1x1 kernel, one pixel", (2, 3, (1, 1), (1, 1), 1)),
        Case("3x3 kernel", (1, 4, (3, 3), (5, 5), 1)),
        Case("an oblong kernel and image", (2, 2, (1, 3), (4, 6), 1)),
        Case("depthwise: as many groups as channels", (8, 8, (3, 3), (4, 4), 8)),
        Case("two groups", (6, 4, (3, 3), (2, 3), 2)),
        Case("random", (c, n, (5, 3), (h, w), 1)),
    ]


def _many_pixels(generator: np.random.Generator) -> Case:
    outputs = int(generator.integers(1_000, 1_100))
    return Case("a thousand channels, and as many again", (1_024, outputs, (3, 3), (6, 10), 1))


CONV2D_MACS = Exercise(
    id="measuring.conv2d_macs",
    title="MACs of a convolution",
    points=2,
    reference=measure.conv2d_macs,
    cases=_conv_cases,
    large=_many_pixels,
    lines=2,
    mistakes=(
        Mistake(
            "one position",
            lambda c, n, k, s, g: k[0] * k[1] * (c // g) * n,
            "That is the number of weights. Each is used once at every output position.",
        ),
        Mistake(
            "ignored groups",
            lambda c, n, k, s, g: k[0] * k[1] * c * n * s[0] * s[1],
            "With groups, an output channel sees only inputs / groups of the input channels.",
        ),
        Mistake(
            "not an integer",
            lambda c, n, k, s, g: k[0] * k[1] * (c / g) * n * s[0] * s[1],
            "The groups divide the channels exactly: use // and the count stays an int.",
        ),
        Mistake(
            "square output",
            lambda c, n, k, s, g: k[0] * k[1] * (c // g) * n * s[0] ** 2,
            "The output may be oblong: height times width, not height squared.",
        ),
        Mistake(
            "square kernel",
            lambda c, n, k, s, g: k[0] * k[0] * (c // g) * n * s[0] * s[1],
            "The kernel may be oblong: height times width, not height squared.",
        ),
        Mistake(
            "groups on both sides",
            lambda c, n, k, s, g: k[0] * k[1] * (c // g) * (n // g) * s[0] * s[1],
            "Every output channel is computed, whatever the groups: divide the inputs only.",
        ),
        Mistake(
            "FLOPs",
            lambda c, n, k, s, g: 2 * k[0] * k[1] * (c // g) * n * s[0] * s[1],
            "You counted multiplications and additions apart. One MAC is both together.",
        ),
    ),
)


# ---- time ----------------------------------------------------------------------------------------
def _time_cases(generator: np.random.Generator) -> list[Case]:
    slow_start = np.array([9.0, 5.0, 1.0, 1.25, 1.5, 1.75, 2.0])
    disturbed = np.concatenate([[8.0], generator.uniform(1, 2, 9), [50.0, 60.0]])
    return [
        Case("one call, no warm-up", (np.array([2.0]), 0, 1)),
        Case("a slow start: two warm-up calls, five timed", (slow_start, 2, 5)),
        Case("an even number of repeats", (np.array([7.0, 1.0, 2.0, 4.0, 8.0]), 1, 4)),
        Case("two calls disturbed at the end", (disturbed, 1, 11)),
    ]


def _durations(call: Callable, clock: Callable, repeats: int) -> list[float]:
    return measure.call_times(call, clock, 0, repeats)


def _mean_time(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return float(np.mean(measure.call_times(call, clock, warmup, repeats)))


def _best_time(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return min(measure.call_times(call, clock, warmup, repeats))


def _cold_time(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return float(np.median(_durations(call, clock, repeats)))


def _timed_warmup(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return float(np.median(_durations(call, clock, warmup + repeats)))


def _warmup_taken_off(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    times = measure.call_times(call, clock, 0, repeats)
    return float(np.median(times[warmup:] or times))


def _unsorted_middle(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return measure.call_times(call, clock, warmup, repeats)[repeats // 2]


def _upper_median(call: Callable, clock: Callable, warmup: int, repeats: int) -> float:
    return sorted(measure.call_times(call, clock, warmup, repeats))[repeats // 2]


FAIR_TIME = Exercise(
    id="measuring.fair_time",
    title="A fair timing loop",
    points=2,
    reference=measure.fair_time,
    cases=_time_cases,
    lines=7,
    tolerance=1e-9,
    harness=on_fake_machine,
    returns="(median seconds, calls made)",
    mistakes=(
        Mistake(
            "mean",
            _mean_time,
            "The mean is dragged up by a few disturbed calls. Which average is not?",
        ),
        Mistake(
            "minimum",
            _best_time,
            "The fastest call is luck that a user does not have. Take the middle one.",
        ),
        Mistake("no warm-up", _cold_time, "Call it `warmup` times first, without timing."),
        Mistake(
            "timed the warm-up",
            _timed_warmup,
            "The warm-up calls are among the times you averaged. Only the later calls count.",
        ),
        Mistake(
            "warm-up taken off the repeats",
            _warmup_taken_off,
            "The warm-up comes on top: `warmup` calls first, and then `repeats` timed ones.",
        ),
        Mistake(
            "not sorted",
            _unsorted_middle,
            "The middle of the list is not the median: the times must be in order first.",
        ),
        Mistake(
            "upper median",
            _upper_median,
            "With an even number of times the median is the mean of the two middle ones.",
        ),
    ),
)


# ---- roofline ------------------------------------------------------------------------------------
def _roofline_cases(generator: np.random.Generator) -> list[Case]:
    macs, moved = (float(v) for v in generator.uniform(1e6, 1e9, 2))
    return [
        Case("much arithmetic", (100.0, 10.0, 10.0, 10.0)),
        Case("much traffic", (10.0, 100.0, 10.0, 10.0)),
        Case("a tie", (20.0, 10.0, 2.0, 1.0)),
        Case("more bytes than MACs, but a fast memory", (100.0, 200.0, 1.0, 100.0)),
        Case("random", (macs, moved, 5e10, 1e10)),
    ]


def _sum_of_times(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return m / peak + b / bandwidth, "compute" if m / peak >= b / bandwidth else "memory"


def _shorter_time(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return min(m / peak, b / bandwidth), "compute" if m / peak <= b / bandwidth else "memory"


def _tie_to_memory(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return max(m / peak, b / bandwidth), "compute" if m / peak > b / bandwidth else "memory"


def _swapped_rates(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return max(m / bandwidth, b / peak), "compute" if m / bandwidth >= b / peak else "memory"


def _swapped_names(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return max(m / peak, b / bandwidth), "memory" if m / peak >= b / bandwidth else "compute"


def _without_machine(m: float, b: float, peak: float, bandwidth: float) -> tuple[float, str]:
    return max(m / peak, b / bandwidth), "compute" if m >= b else "memory"


ROOFLINE = Exercise(
    id="measuring.roofline",
    title="Memory-bound or compute-bound?",
    points=2,
    reference=measure.roofline,
    cases=_roofline_cases,
    lines=3,
    tolerance=1e-9,
    mistakes=(
        Mistake(
            "sum",
            _sum_of_times,
            "Arithmetic and memory traffic overlap: the longer one decides, they do not add up.",
        ),
        Mistake("minimum", _shorter_time, "Both must be finished: the longer one decides."),
        Mistake(
            "names swapped", _swapped_names, "If the arithmetic takes longer, it is compute-bound."
        ),
        Mistake(
            "the other order",
            lambda m, b, peak, bandwidth: measure.roofline(m, b, peak, bandwidth)[::-1],
            "First the seconds, then the name.",
        ),
        Mistake("tie", _tie_to_memory, "Right but for a tie: then call it compute-bound."),
        Mistake(
            "rates swapped",
            _swapped_rates,
            "MACs are done at MACs per second, bytes moved at bytes per second.",
        ),
        Mistake(
            "compared counts",
            _without_machine,
            "Comparing MACs with bytes forgets the machine: compare the two times.",
        ),
    ),
)

EXERCISES = (PARAMETER_BYTES, LINEAR_MACS, CONV2D_MACS, FAIR_TIME, ROOFLINE)
