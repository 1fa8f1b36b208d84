"""Lab 13: blocks of a GGUF file, and a linear layer on integers with a scale for each token."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.real import gguf

f32 = np.float32

# ---- blocks ----------------------------------------------------------------------------------------
BYTES, SCALED, SHIFTED = "bytes with a scale", "nibbles about zero", "nibbles with a minimum"
KINDS = {kind.name: kind for kind in gguf.KINDS.values()}


def read_blocks(blocks: np.ndarray, kind: str) -> np.ndarray:
    """What the library's reader says: uint8 [n, bytes] -> float32 [n, 32]."""
    return np.asarray(KINDS[kind].read(blocks), f32)


def _reader(
    order: str = "<f2",
    signed: bool = True,
    nibbles: Callable = lambda b: np.concatenate([b & 15, b >> 4], 1),
    middle: float = 8,
    lowered: Callable | None = None,
    sign: float = 1,
    swapped: bool = False,
    scaled: Callable = lambda d, q: d * q,
    kind_of_number: type = f32,
    minimum: Callable = lambda d, m: m,
) -> Callable:
    """A plain reader, with one thing or another done differently."""

    def half(b: np.ndarray, start: int) -> np.ndarray:
        two = np.ascontiguousarray(b[:, start : start + 2])
        return two.view(order).astype(kind_of_number)

    def read(blocks: np.ndarray, kind: str) -> np.ndarray:
        d = half(blocks, 0)
        if kind == "Q8_0":
            codes = np.ascontiguousarray(blocks[:, 2:])
            return scaled(d, (codes.view(np.int8) if signed else codes).astype(f32)).astype(f32)
        if kind == "Q4_0":
            q = nibbles(blocks[:, 2:])
            return scaled(d, lowered(q) if lowered else q.astype(f32) - f32(middle)).astype(f32)
        m = half(blocks, 2)
        d, m = (m, d) if swapped else (d, m)
        found = scaled(d, nibbles(blocks[:, 4:]).astype(f32)) + sign * minimum(d, m)
        return found.astype(f32)

    return read


def _interleaved(b: np.ndarray) -> np.ndarray:
    return np.stack([b & 15, b >> 4], 2).reshape(len(b), 2 * b.shape[1])


def _blocks(generator: np.random.Generator, kind: str, count: int) -> np.ndarray:
    made = generator.integers(0, 256, (count, KINDS[kind].bytes), dtype=np.uint8)
    halves = 2 if kind == "Q4_1" else 1
    numbers = generator.normal(0, 0.05, (count, halves)).astype("<f2")
    made[:, : 2 * halves] = numbers.view(np.uint8).reshape(count, -1)
    return made


def _block_cases(generator: np.random.Generator) -> list[Case]:
    stages = {"Q8_0": BYTES, "Q4_0": SCALED, "Q4_1": SHIFTED}
    cases = []
    for kind, stage in stages.items():
        one = _blocks(generator, kind, 1)
        counting = one.copy()
        counting[:, -16:] = np.arange(16) * 16 + np.arange(15, -1, -1)
        cases += [
            Case(f"{kind}, one block whose codes count", (counting, kind), stage),
            Case(f"{kind}, seven blocks", (_blocks(generator, kind, 7), kind), stage),
        ]
        every = np.ascontiguousarray(_blocks(generator, kind, 14)[::2])
        cases.append(Case(f"{kind}, other numbers", (every, kind), stage))
    return cases


READ_BLOCKS = Exercise(
    id="real.read_blocks",
    title="Blocks of a GGUF file",
    points=3,
    reference=read_blocks,
    cases=_block_cases,
    lines=12,
    tolerance=1e-6,
    stages=((BYTES, 1), (SCALED, 1), (SHIFTED, 1)),
    mistakes=(
        Mistake(
            "bytes without a sign",
            _reader(signed=False),
            "The codes of Q8_0 are signed: byte 255 is -1. `.view(np.int8)` reads the same bytes so.",
        ),
        Mistake(
            "the scale read from the wrong end",
            _reader(order=">f2"),
            "The two bytes of a scale stand with the low one first: float16 in little-endian order, '<f2'.",
        ),
        Mistake(
            "neighbours from one byte",
            _reader(nibbles=_interleaved),
            "Byte i holds weight i in its low half and weight i + 16 in its high half: all the low halves "
            "come first, then all the high ones.",
        ),
        Mistake(
            "the high half first",
            _reader(nibbles=lambda b: np.concatenate([b >> 4, b & 15], 1)),
            "The low four bits are the first sixteen weights.",
        ),
        Mistake(
            "nibbles from 0 on",
            _reader(middle=0),
            "The codes of Q4_0 are 0 to 15 and mean -8 to 7: take 8 from each before you scale it.",
            also=(_reader(middle=7.5), _reader(middle=7)),
        ),
        Mistake(
            "8 taken from bytes",
            _reader(lowered=lambda q: (q.astype(np.uint8) - np.uint8(8)).astype(f32)),
            "Below 0 a byte begins again at 255: make floats of the nibbles before you take 8 away.",
        ),
        Mistake(
            "scale and minimum in each other's place",
            _reader(swapped=True),
            "In Q4_1 the scale stands first, the minimum behind it.",
        ),
        Mistake(
            "the minimum taken away",
            _reader(sign=-1),
            "A weight of Q4_1 is d * q + m: the minimum is added (it is negative as a rule).",
        ),
        Mistake(
            "the minimum scaled as well",
            _reader(minimum=lambda d, m: d * m),
            "The minimum is a weight already: d * q + m, and not d * (q + m).",
        ),
        Mistake(
            "computed in half precision",
            _reader(
                kind_of_number=np.float16,
                scaled=lambda d, q: (d * q.astype(np.float16)).astype(np.float16),
            ),
            "The scale is stored as float16, but the product is computed in float32: cast the scale first.",
        ),
    ),
)


# ---- a scale for each token ------------------------------------------------------------------------
TOKENS, FAR, ZEROS, EXACT = (
    "tokens of ordinary sizes",
    "a token far larger than the others",
    "a token of zeros",
    "sums of integers",
)


def token_linear(
    x: np.ndarray, codes: np.ndarray, scales: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Int8 inputs with a scale for each token, int8 weights with one for each output, summed in int32.

    As `runtime.dynamic` computes it: float32 [tokens, inputs], int8 [outputs, inputs], float32 [outputs]
    twice -> float32 [tokens, outputs].
    """
    largest = np.abs(x).max(1, keepdims=True)
    step = np.where(largest > 0, largest / f32(127), f32(1)).astype(f32)
    q = np.rint(x / step).astype(np.int32)
    sums = q @ codes.T.astype(np.int32)
    return (sums * step * scales + bias).astype(f32)


def _token_layer(
    along: int | None = 1,
    rounding: Callable = np.rint,
    top: float = 127,
    guard: bool = True,
    keep: bool = False,
    whole: Callable = lambda a: a.astype(np.int64),
    largest: Callable = lambda a, **k: np.abs(a).max(**k),
    scaled: Callable = lambda sums, step, scales, bias: sums * step * scales + bias,
) -> Callable:
    """The layer, with one thing or another done differently."""

    def layer(x, codes, scales, bias):
        high = largest(x, axis=along, keepdims=True)
        with np.errstate(all="ignore"):
            step = (high / top).astype(f32)
            step = np.where(step > 0, step, f32(1)) if guard else step
            q = rounding(x / step)
            q = np.clip(np.nan_to_num(q) if guard else q, -128, 127)
            sums = whole(q.astype(np.int8) if guard and not keep else q) @ whole(codes).T
            found = scaled(sums, step if along == 1 else step.max(), scales, bias)
        return np.asarray(found, f32)

    return layer


def _token_cases(generator: np.random.Generator) -> list[Case]:
    def problem(tokens: int, inputs: int, outputs: int, offset: float = 0.0) -> list[np.ndarray]:
        x = generator.normal(offset, 1, (tokens, inputs)).astype(f32)
        codes = generator.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        scales = generator.uniform(0.001, 0.02, outputs).astype(f32)
        return [x, codes, scales, generator.normal(0, 1, outputs).astype(f32)]

    far = problem(6, 24, 5)
    far[0][0] *= f32(3000)
    far[0][0, 1] = f32(4000)
    small = problem(4, 16, 3)
    small[0] *= f32([[1e-3], [1], [1e3], [1]])
    zeros = problem(5, 12, 4)
    zeros[0][2] = 0
    nothing = problem(3, 8, 4)
    nothing[0][:] = 0
    # The second half takes away what the first adds: in float32 what is left is lost in the rounding.
    half = generator.integers(96, 104, 150_000).astype(f32)
    row = np.concatenate([half, half[::-1]])
    row[-1], row[0] = f32(127), f32(96)
    signs = np.repeat(np.int8([127, -127]), 150_000)
    wide = [row[None], np.stack([signs, -signs]), f32([0.01, 0.02]), f32([0.5, -1])]
    return [
        Case("eight tokens", tuple(problem(8, 32, 6)), TOKENS),
        Case("one token", tuple(problem(1, 20, 3)), TOKENS),
        Case("tokens that lean to one side", tuple(problem(5, 16, 4, offset=-2.0)), TOKENS),
        Case("the first token 3,000 times the others", tuple(far), FAR),
        Case("sizes from a thousandth to a thousand", tuple(small), FAR),
        Case("one of five", tuple(zeros), ZEROS),
        Case("all of them", tuple(nothing), ZEROS),
        Case("300,000 inputs whose products nearly cancel", tuple(wide), EXACT),
    ]


TOKEN_LINEAR = Exercise(
    id="real.token_linear",
    title="A scale for each token",
    points=4,
    reference=token_linear,
    cases=_token_cases,
    lines=8,
    tolerance=1e-5,
    stages=((TOKENS, 1), (FAR, 1), (ZEROS, 1), (EXACT, 1)),
    mistakes=(
        Mistake(
            "one scale for all tokens",
            _token_layer(along=None),
            "One scale serves all tokens here, so that the largest token takes all codes and the others "
            "round to almost nothing. Take the largest magnitude of each row, with keepdims.",
        ),
        Mistake(
            "the largest value, not the largest magnitude",
            _token_layer(largest=lambda a, **k: a.max(**k)),
            "A token whose negative numbers are larger is cut off: take the magnitude first.",
        ),
        Mistake(
            "cut, not rounded",
            _token_layer(rounding=np.trunc),
            "Codes are rounded to the nearest (np.rint); cutting off the fraction makes them too small.",
            also=(_token_layer(rounding=np.floor),),
        ),
        Mistake(
            "255 steps from 0",
            _token_layer(top=255),
            "Codes reach from -127 to 127: the largest magnitude of a token is code 127.",
            also=(_token_layer(top=128),),
        ),
        Mistake(
            "divided by a scale of 0",
            _token_layer(guard=False, whole=lambda a: a.astype(np.float64)),
            "A token of zeros has a largest magnitude of 0, and 0 / 0 is NaN: give it a scale of 1.",
        ),
        Mistake(
            "sums in 8 bits",
            _token_layer(whole=lambda a: a.astype(np.int8)),
            "The sum of products needs 32 bits: cast both factors to int32 before you multiply.",
            also=(_token_layer(whole=lambda a: a.astype(np.int16)),),
        ),
        Mistake(
            "sums in float32",
            _token_layer(whole=lambda a: a.astype(f32)),
            "float32 holds whole numbers up to 16 million, and these sums pass that: multiply as int32.",
        ),
        Mistake(
            "inputs that are not rounded",
            _token_layer(rounding=lambda a: a, whole=lambda a: a.astype(np.float64), keep=True),
            "The inputs are codes as well: round x / step before the product.",
        ),
        Mistake(
            "the bias forgotten",
            _token_layer(scaled=lambda sums, step, scales, bias: sums * step * scales),
            "The bias is missing: it is added at the end, as it is.",
        ),
        Mistake(
            "the scale of the weights forgotten",
            _token_layer(scaled=lambda sums, step, scales, bias: sums * step + bias),
            "A sum of codes is scaled twice: by its token's scale and by its output's.",
        ),
        Mistake(
            "the scale of the tokens forgotten",
            _token_layer(scaled=lambda sums, step, scales, bias: sums * scales + bias),
            "A sum of codes is scaled twice: by its output's scale and by its token's.",
        ),
        Mistake(
            "the bias scaled as well",
            _token_layer(scaled=lambda sums, step, scales, bias: (sums + bias) * step * scales),
            "The bias is a float already: it is added after the sums are scaled.",
        ),
    ),
)

EXERCISES = (READ_BLOCKS, TOKEN_LINEAR)
