"""Lab 12: a Huffman code that writes a stream of bytes, and reads it back."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.kernels import huffman
from compresslab.numerics import entropy

ONE, STREAM, BACK = "one symbol", "a stream", "back again"
Pair = tuple[Callable, Callable]


def huffman_code(lengths: np.ndarray) -> Pair:
    """The library's: write(symbols) -> stream, read(stream, count) -> symbols."""
    codes = entropy.canonical_codes(lengths)
    return (
        lambda symbols: huffman.write(symbols, codes, lengths),
        lambda stream, count: huffman.read(stream, lengths, count),
    )


def at_work(function: Callable) -> Callable:
    """What the code writes, or reads."""

    def run(stage, lengths, symbols, stream):
        write, read = function(lengths)
        return read(stream, len(symbols)) if stage == "back again" else write(symbols)

    return run


def _cases(generator: np.random.Generator) -> list[Case]:
    def of(counts: np.ndarray) -> np.ndarray:
        return entropy.code_lengths(np.asarray(counts)).astype(np.uint8)

    def case(stage: str, label: str, lengths: np.ndarray, symbols: np.ndarray) -> Case:
        symbols = np.asarray(symbols, np.uint8)
        return Case(label, (stage, lengths, symbols, huffman_code(lengths)[0](symbols)), stage)

    three = np.array([2, 1, 2], np.uint8)
    unordered = np.array([3, 0, 1, 3, 2], np.uint8)
    counts = generator.integers(1, 200, 16)
    sixteen, skewed = of(counts), of([1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
    many = generator.choice(16, 500, p=counts / counts.sum())
    rare = generator.integers(0, len(skewed), 61)
    return [
        case(ONE, "the shortest code of three", three, [1]),
        case(ONE, "the last of three", three, [2]),
        case(ONE, "codes in order of length, then of symbol", unordered, [4]),
        case(ONE, "a symbol of three bits", unordered, [3]),
        case(ONE, "one of sixteen", sixteen, [int(generator.integers(16))]),
        case(STREAM, "four symbols, six bits", three, [1, 0, 1, 2]),
        case(STREAM, "exactly a byte", three, [0, 2, 0, 2]),
        case(STREAM, "five hundred symbols", sixteen, many),
        case(STREAM, "codes of up to twelve bits", skewed, rare),
        case(STREAM, "nothing to write", three, []),
        case(BACK, "four symbols back", three, [1, 0, 1, 2]),
        case(BACK, "zeros at the end are no symbols", three, [0, 1, 1]),
        case(BACK, "five hundred symbols back", sixteen, many),
        case(BACK, "codes of up to twelve bits back", skewed, rare),
    ]


def _texts(lengths, order):
    """The codes as text, from the symbols in the order of their codes."""
    code, before, texts = 0, 0, {}
    for s in order(lengths):
        code <<= int(lengths[s]) - before
        before = int(lengths[s])
        texts[s] = format(code, f"0{before}b")
        code += 1
    return texts


def _canonical(lengths):
    return sorted((s for s in range(len(lengths)) if lengths[s]), key=lambda s: (lengths[s], s))


def _built(
    order: Callable = _canonical,
    pad: Callable = lambda bits: bits + "0" * (-len(bits) % 8),
    byte: Callable = lambda text: int(text, 2),
    dtype: type = np.uint8,
    greedy: bool = False,
    code: Callable = lambda text: text,
) -> Callable:
    """The way with strings, with one thing or another done differently."""

    def huffman_code(lengths):
        texts = {s: code(t) for s, t in _texts(lengths, order).items()}
        symbols = {text: s for s, text in texts.items()}

        def write(values):
            bits = pad("".join(texts[int(v)] for v in values))
            return np.array([byte(bits[i : i + 8]) for i in range(0, len(bits), 8)], dtype)

        def read(stream, count):
            found, part = [], ""
            for bit in "".join(format(int(b), "08b") for b in stream):
                part += bit
                if part in symbols and (greedy or len(found) < count):
                    found.append(symbols[part])
                    part = ""
            return np.array(found, dtype)

        return write, read

    return huffman_code


def _falling(lengths):
    return sorted((s for s in range(len(lengths)) if lengths[s]), key=lambda s: (lengths[s], -s))


def _unaligned(lengths):
    """Codes counted up without the shift between lengths."""
    ordered = enumerate(_canonical(lengths))
    return {s: format(number, f"0{int(lengths[s])}b") for number, s in ordered}


def _unshifted(lengths):
    texts = _unaligned(lengths)

    def write(values):
        bits = "".join(texts[int(v)][-int(lengths[int(v)]) :] for v in values)
        bits += "0" * (-len(bits) % 8)
        return np.array([int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)], np.uint8)

    return write, _built()(lengths)[1]


HUFFMAN_CODE = Exercise(
    id="combine.huffman_code",
    title="Huffman into bytes and back",
    points=8,
    reference=huffman_code,
    cases=_cases,
    harness=at_work,
    lines=25,
    stages=((ONE, 2), (STREAM, 4), (BACK, 2)),
    mistakes=(
        Mistake(
            "the lowest bit first",
            _built(byte=lambda text: int(text[::-1], 2)),
            "The first bit of the stream is the *highest* of the first byte.",
        ),
        Mistake(
            "padded in front",
            _built(pad=lambda bits: "0" * (-len(bits) % 8) + bits),
            "The last byte is filled up with zeros behind the last code; in front they would be read as "
            "codes.",
            also=(_built(pad=lambda bits: bits, byte=lambda text: int(text, 2)),),
        ),
        Mistake(
            "always one byte more",
            _built(pad=lambda bits: bits + "0" * (8 - len(bits) % 8)),
            "Where the bits fill the last byte there is nothing to add.",
        ),
        Mistake(
            "a byte for every bit",
            lambda lengths: (
                lambda values: np.array(
                    [int(b) for v in values for b in _texts(lengths, _canonical)[int(v)]], np.uint8
                ),
                _built()(lengths)[1],
            ),
            "Eight bits make one byte: pack them, `np.packbits` does it.",
        ),
        Mistake(
            "equal lengths in falling order",
            _built(order=_falling),
            "Canonical codes are handed out in order of length, and among equal lengths in *rising* order "
            "of the "
            "symbol. Otherwise the lengths alone do not say what the codes are.",
        ),
        Mistake(
            "no shift from one length to the next",
            _unshifted,
            "Before codes of the next length begin, the number is shifted left by the difference in "
            "length.",
        ),
        Mistake(
            "the zeros at the end read as symbols",
            _built(greedy=True),
            "`count` says how many symbols there are: stop there. What follows only fills the byte.",
        ),
    ),
)

EXERCISES = (HUFFMAN_CODE,)
