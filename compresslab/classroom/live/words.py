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


@dataclass(frozen=True)
class SignWords:
    """Of two words of signs and their product."""

    first: str = "signs of a"
    second: str = "signs of b"
    made: str = "XOR: where they differ"
    bit: str = "%name%, bit number %place%: %value%"
    status: str = (
        "As words: %one% and %other%. They differ in %different% of %count% places, so the dot product is "
        "%count% - 2 * %different% = %dot%."
    )


@dataclass(frozen=True)
class CodeWords:
    """Of two codes in one byte."""

    first: str = "first code"
    second: str = "second code"
    made: str = "their byte"
    bit: str = "%name%, bit number %place%: %value%"
    status: str = "Codes %one% and %other% share the byte %one% + 16 * %other% = %byte% (%hex%)."


@dataclass(frozen=True)
class ColumnWords:
    """Of a row of weights whose codes are chosen one after another."""

    open: str = (
        "%fixed% of %count% weights have a code (squares). Circles are the weights; diamonds, what those "
        "without a code have been moved to."
    )
    done: str = (
        "Output error %error%. The nearest codes have %nearest%, GPTQ's %gptq%, and the best of all "
        "%least%."
    )
    better: str = "That is better than GPTQ."
    best: str = "No codes are better."
    of_level: str = "code number %code% is %value%"
    level: str = "weight number %place% gets code %code%"
    picture: str = "A row of weights, and the codes that each may have"
    next_button: str = "next weight as GPTQ does it"
    nearest_button: str = "all to the nearest code"
    again_button: str = "begin again"
    across: str = "number of the weight"
    upwards: str = "value of the weight"
    title: str = "A row of weights, and the codes that each may have"


@dataclass(frozen=True)
class BudgetWords:
    """Of a byte budget that is spent layer by layer."""

    status: str = "%bytes% of %budget% bytes. The single losses add up to %expected% points."
    fits: str = "That fits the budget."
    large: str = "That is too large for the budget."
    measured: str = "Measured together: %found% points; the sum was %gap% off."
    best: str = "No plan within the budget loses less."
    better: str = "The best plan within the budget loses %least% points."
    segment: str = "layer number %name% has %bits% bits, %bytes% bytes"
    above: str = "bytes of each layer, and its bits: a click takes the next width"
    budget: str = "the budget"
    across: str = "bytes of all weights"
    upwards: str = "points lost, as the single losses add up"
    picture: str = "Layers as segments of a bar, and every plan as a dot over its bytes"
    title: str = "Every plan: what it takes, and what it should lose"
    measure_button: str = "measure this plan"
    again_button: str = "begin again"


def spoken(
    words: GridWords | BitWords | SignWords | CodeWords | ColumnWords | BudgetWords,
) -> dict[str, str]:
    """The words by their names, translated."""
    return {name: translated(text) for name, text in asdict(words).items()}
