"""What the figures say, in the reader's language: a script fills in the %values%."""

from dataclasses import asdict, dataclass

from compresslab.language import translated


@dataclass(frozen=True)
class GridWords:
    """Of the grid over a layer's weights."""

    status: str = (
        "%codes% codes, %decibels% dB. Of the squared error, rounding is %rounding% per cent and "
        "clipping %clipping% per cent."
    )
    target: str = "A search found %target% dB."
    reached: str = "Within half a decibel of the best of a search (%target% dB)."
    above: str = "weights, and the codes of the grid as lines (zero: dark)"
    below: str = "squared error: rounding green, clipping orange"
    bits: str = "bits a weight"
    again: str = "smallest to largest again"
    picture: str = "Weights under a grid of codes whose two ends can be moved"
    low: str = "low end of the grid"
    high: str = "high end of the grid"
    across: str = "value of a weight"
    upwards: str = "number of weights"
    title: str = "The grid from the smallest to the largest weight"


@dataclass(frozen=True)
class BitWords:
    """Of a number's bits."""

    number: str = "choose a number:"
    single: str = "float32"
    added: str = "rounding added"
    half: str = "cut: bfloat16"
    sign: str = "sign bit"
    exponent: str = "exponent"
    mantissa: str = "mantissa"
    bit: str = "bit number %place% (%field%) is %value%"
    status: str = "%single% becomes %half% in bfloat16: off by %lost% thousandths of it."
    beyond: str = "%single% becomes %half% in bfloat16: there is no such large number."
    special: str = "%single% stays %half%: with eight ones in its exponent it is no finite number."


def spoken(words: GridWords | BitWords) -> dict[str, str]:
    """The words by their names, translated."""
    return {name: translated(text) for name, text in asdict(words).items()}
