"""Lab 14, the fault clinic: causes, and five patients whose fault is in layers and files.

Every answer hands back two things: the cause, one of the words of CAUSES, and what the mended code gives. The
cause is a stage of its own, then the patient, then others with the same fault. A wrong cause is answered with
what speaks against it, never with the right one.
"""

from collections.abc import Callable

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake

f32 = np.float32
CAUSE, PATIENT, OTHERS = "the cause", "the patient is well", "and so are others"
STAGES = ((CAUSE, 1), (PATIENT, 1), (OTHERS, 1))
CAUSES = {
    "axis": "scales belong to the wrong axis",
    "batch": "statistics of one batch stand where learned ones belong",
    "direction": "two arguments stand in the wrong order",
    "group": "a length is no multiple of the group",
    "leak": "what chooses has seen what tests",
    "names": "tensors stand under other names, or in parts",
    "noise": "the difference is smaller than the spread over seeds",
    "outlier": "one large value stretches a scale",
    "overflow": "sums leave the range of their type",
    "repeated": "work is done again at every call",
    "singular": "a matrix has no inverse",
    "temperature": "answers are softened too much or too little",
    "warm-up": "first calls are timed with the others",
    "zeros": "zeros are stored like any other number",
}
"""What can be wrong, by the word that an answer names."""


def without_stage(function: Callable) -> Callable:
    """The answer does not see which stage a case is of.

    It stands by itself: grading sends it into the sandbox as text.
    """
    return lambda *arguments: function(*arguments[:-1])


def seen(
    cause: str, cured: Callable, tolerance: float = 0.0, names: tuple[str, ...] = ()
) -> Callable:
    """What is said of a cause and a result.

    Args:
        cause: the right word.
        cured: what the result should be, from the arguments of the case without its stage.
        tolerance: relative and absolute, of floating-point results.
        names: of the result's parts, where it has several.
    """

    def look(out: object, *arguments: object) -> str:
        if type(out) not in (tuple, list) or len(out) != 2 or type(out[0]) is not str:
            return "hand back two things: the cause, a word of the list, and the result"
        if arguments[-1] == CAUSE:
            return said_of(out[0], cause)
        return said_of_result(out[1], cured(*arguments[:-1]), tolerance, names)

    return look


def said_of_result(
    found: object, wanted: object, tolerance: float, names: tuple[str, ...] = ()
) -> str:
    """How a result differs from what it should be, part by part under their names."""
    if not names or type(found) is not tuple or len(found) != len(names):
        return compare.difference(found, wanted, tolerance) or RIGHT
    for name, one, other in zip(names, found, wanted, strict=True):
        if text := compare.difference(one, other, tolerance):
            return f"{name}: {text}"
    return RIGHT


def said_of(word: str, cause: str) -> str:
    """Whether it is the cause; the right one is not told."""
    if word == cause:
        return RIGHT
    shown = repr(word[:40])
    return f"the cause is not {shown}" if word in CAUSES else f"{shown} is no word of the list"


def in_stages(*calls: tuple) -> list[Case]:
    """Cases of all stages: the first two calls ask for the cause and are the patient, the others its like."""
    found = [Case(f"{label}: cause", (*args, CAUSE), CAUSE) for label, *args in calls[:2]]
    for number, (label, *args) in enumerate(calls):
        stage = PATIENT if number < 2 else OTHERS
        found.append(Case(label, (*args, stage), stage))
    return found


def misread(reference: Callable, word: str, hint: str) -> Mistake:
    """The right cure under a wrong cause."""
    return Mistake(f"read as {word}", lambda *arguments: (word, reference(*arguments)[1]), hint)


def numbers_of(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers of mean 0 and spread 1, in float32."""
    return generator.normal(0, 1, shape).astype(f32)


# ---- work that is done again ---------------------------------------------------------------------
def slow_layer(packed: np.ndarray, scale: np.ndarray, unpack: Callable) -> tuple[str, Callable]:
    """Codes are unpacked once; a call multiplies."""
    weight = unpack(packed) * scale
    return "repeated", lambda x: x @ weight.T


def counting_unpacks(function: Callable) -> Callable:
    """The answer's layer is called a few times, and calls of `unpack` are counted.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(packed: np.ndarray, scale: np.ndarray, x: np.ndarray, calls: int, stage: str) -> object:
        counted = []

        def unpack(words: np.ndarray) -> np.ndarray:
            counted.append(1)
            pairs = np.stack([words & 15, words >> 4], axis=-1).reshape(len(words), -1)
            return (pairs.astype(np.int8) ^ 8) - 8

        out = function(packed, scale, unpack)
        if type(out) not in (tuple, list) or len(out) != 2:
            return 0
        if stage == "the cause":
            return out[0], 0
        if not callable(out[1]):
            return out[0], "no function"
        before = len(counted)
        # Another x each time: what is kept must not depend on it.
        results = [out[1](x + i) for i in range(calls)]
        return out[0], (len(counted) - before, results[0], results[-1])

    return run


def _unpacked_once(packed: np.ndarray, scale: np.ndarray, x: np.ndarray, calls: int) -> tuple:
    pairs = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    weight = (((pairs.astype(np.int8) ^ 8) - 8) * scale).T
    return 0, x @ weight, (x + calls - 1) @ weight


def _slow_cases(generator: np.random.Generator) -> list[Case]:
    def layer(rows: int, columns: int, examples: int, calls: int) -> tuple:
        codes = generator.integers(-8, 8, (rows, columns)).astype(np.int8)
        # Powers of two: the product is the same in whatever order it is added up.
        scale = (2.0 ** generator.integers(-3, 2, (rows, 1))).astype(f32)
        x = generator.integers(-4, 5, (examples, columns)).astype(f32)
        packed = (codes[:, 0::2] & 15) | (codes[:, 1::2] << 4)
        return packed.astype(np.uint8), scale, x, calls

    return in_stages(
        ("a small layer", *layer(2, 4, 1, 3)),
        ("a wide one", *layer(3, 16, 2, 5)),
        ("one call", *layer(4, 8, 2, 1)),
        ("many calls", *layer(4, 8, 1, 20)),
    )


def _always(packed: np.ndarray, scale: np.ndarray, unpack: Callable) -> tuple[str, Callable]:
    return "repeated", lambda x: x @ (unpack(packed) * scale).T


def _scaleless(packed: np.ndarray, scale: np.ndarray, unpack: Callable) -> tuple[str, Callable]:
    codes = unpack(packed).astype(f32)
    return "repeated", lambda x: x @ codes.T


SLOW_LAYER = Exercise(
    id="clinic.slow_layer",
    title="An eighth of the bytes, many times slower",
    points=3,
    reference=slow_layer,
    cases=_slow_cases,
    harness=counting_unpacks,
    look=seen(
        "repeated",
        _unpacked_once,
        1e-6,
        ("calls of `unpack` while the layer multiplies", "the first product", "the last product"),
    ),
    lines=2,
    stages=STAGES,
    mistakes=(
        misread(
            slow_layer,
            "zeros",
            "Count the zeros among the codes: there are few. What does a call do besides multiplying?",
        ),
        misread(
            slow_layer,
            "warm-up",
            "The tenth call is as slow as the second. What does every one of them do besides multiplying?",
        ),
        Mistake(
            "unpacks in the layer",
            _always,
            "Your layer still unpacks whenever it is called. What does not depend on x can be done before.",
        ),
        Mistake(
            "the scale is lost",
            _scaleless,
            "Codes are not weights: each row has its scale.",
        ),
    ),
)


# ---- zeros on disk -------------------------------------------------------------------------------
def pruned_file(weight: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """A bit for each weight, and the values that are not 0."""
    kept = weight != 0
    return "zeros", (np.packbits(kept), weight[kept])


def _pruned_cases(generator: np.random.Generator) -> list[Case]:
    def pruned(*shape: int, share: float = 0.75) -> np.ndarray:
        weight = numbers_of(generator, *shape)
        weight[generator.random(shape) < share] = 0
        return weight

    return in_stages(
        ("two rows", f32([[0, 1, 0, 0], [2, 0, 0, -3]])),
        ("a layer", pruned(5, 8)),
        ("no whole number of bytes", pruned(3, 5)),
        ("a convolution", pruned(4, 3, 3, 3)),
        ("nothing is left", np.zeros((2, 3), f32)),
        ("nothing was pruned", numbers_of(generator, 2, 4)),
    )


PRUNED_FILE = Exercise(
    id="clinic.pruned_file",
    title="Pruned, and the file is as large as before",
    points=3,
    reference=pruned_file,
    cases=_pruned_cases,
    harness=without_stage,
    look=seen("zeros", lambda weight: pruned_file(weight)[1]),
    lines=2,
    stages=STAGES,
    mistakes=(
        misread(
            pruned_file,
            "repeated",
            "Nothing is computed here. Look into the file: which numbers are in it, and how many bytes has "
            "each?",
        ),
        misread(
            pruned_file,
            "names",
            "The names are right, or it could not be loaded. How many bytes has a weight that is 0?",
        ),
        Mistake(
            "a byte for each bit",
            lambda w: ("zeros", ((w != 0).ravel().astype(np.uint8), w[w != 0])),
            "A mask of bytes takes a quarter of the floats by itself. Eight of its entries fit in a byte.",
            also=(lambda w: ("zeros", ((w != 0), w[w != 0])),),
        ),
        Mistake(
            "places as whole numbers",
            lambda w: ("zeros", (np.flatnonzero(w), w[w != 0])),
            "An index has 8 bytes, more than the weight that it is for. A bit for every weight takes less.",
        ),
        Mistake(
            "the values with their zeros",
            lambda w: ("zeros", (np.packbits(w != 0), w.ravel())),
            "The bits are there, and the zeros as well: keep those values only whose bit is set.",
        ),
        Mistake(
            "the bits of the zeros",
            lambda w: ("zeros", (np.packbits(w == 0), w[w != 0])),
            "A set bit says here that a weight is 0: the text asks for the other way round.",
        ),
    ),
)


# ---- the layer to blame --------------------------------------------------------------------------
Layers = tuple[np.ndarray, ...]


def layer_to_blame(weights: Layers, rounded: Layers, x: np.ndarray) -> tuple[str, int]:
    """The layer whose output is most wrong, relative to its size, on inputs that are right."""
    errors = []
    for weight, code in zip(weights, rounded, strict=True):
        right, wrong = x @ weight.T, x @ code.T
        errors.append(np.square(wrong - right).sum() / np.square(right).sum())
        x = np.maximum(right, 0)
    return "outlier", int(np.argmax(errors))


def rounded_whole(weight: np.ndarray, bits: int = 4) -> np.ndarray:
    """A weight rounded with one scale for all of it."""
    scale = np.abs(weight).max() / (2 ** (bits - 1) - 1)
    return (np.round(weight / scale) * scale).astype(f32)


def ill_chain(
    generator: np.random.Generator, widths: tuple[int, ...], ill: int, loud: int, decoy: int
) -> tuple[Layers, Layers, np.ndarray]:
    """A chain of layers, rounded with one scale a layer: one of them is ill, others only look so.

    Where the first layer is not the ill one, it has lost its weights at an input that is always 0.

    Args:
        generator: of all numbers.
        widths: inputs of the first layer, and outputs of each.
        ill: the layer with a large weight at an input that is always 0; it leaves few codes to the others.
        loud: a layer with large outputs, whose errors are large in numbers only.
        decoy: a layer, neither the first nor right behind the ill one, that has lost its weights at an input
            which the ReLU keeps at 0.
    """
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [numbers_of(generator, *shape) / f32(3) for shape in shapes]
    x = np.abs(numbers_of(generator, 20, widths[0]))
    weights[loud] *= 30
    if ill == 0:
        x[:, 2] = 0
    else:
        weights[ill - 1][2] = -np.abs(weights[ill - 1][2])
    weights[ill][0, 2] = 12 * np.abs(weights[ill]).max()
    rounded = list(map(rounded_whole, weights))
    # What follows is after the rounding: no scale is to suffer from it.
    weights[decoy - 1][0] = rounded[decoy - 1][0] = -20 * np.abs(weights[decoy - 1][0])
    rounded[decoy][:, 0] = 0
    if ill > 0:
        x[:, 1] = 0
        weights[0][:, 1] = 8 * np.abs(weights[0]).max()
        rounded[0][:, 1] = 0
    return tuple(weights), tuple(rounded), x


def _flows(weights: Layers, x: np.ndarray) -> bool:
    """Whether every layer gets something: all channels of a narrow one may be silent by chance."""
    for weight in weights:
        if not x.any():
            return False
        x = np.maximum(x @ weight.T, 0)
    return True


def _blame_cases(generator: np.random.Generator) -> list[Case]:
    def chain(widths: tuple[int, ...], ill: int, loud: int, decoy: int) -> tuple:
        wrong = [_blamed(relative=False), _blamed(relu=False)]
        wrong += [_blamed(alone=False)] if ill + 2 < len(widths) else []
        wrong += [_blamed(by_weight=True)] if ill > 0 else []
        while True:
            args = ill_chain(generator, widths, ill, loud, decoy)
            if not _flows(args[0], args[2]):
                continue
            if layer_to_blame(*args)[1] == ill and all(w(*args)[1] != ill for w in wrong):
                return args

    return in_stages(
        ("four layers, the second is ill", *chain((12, 9, 14, 7, 10), 1, 2, 3)),
        ("four layers, the third is ill", *chain((8, 13, 9, 12, 6), 2, 3, 1)),
        ("five layers", *chain((10, 12, 8, 11, 9, 7), 2, 1, 4)),
        ("the first is ill", *chain((12, 10, 8, 9, 11), 0, 1, 3)),
        ("the last is ill", *chain((9, 12, 11, 8), 2, 0, 1)),
    )


def _blamed(
    alone: bool = True, relative: bool = True, by_weight: bool = False, relu: bool = True
) -> Callable:
    """Looking for the layer, with one thing or another done differently."""

    def blame(weights, rounded, x):
        errors, bent = [], x
        for weight, code in zip(weights, rounded, strict=True):
            right, wrong = x @ weight.T, (x if alone else bent) @ code.T
            if by_weight:
                right, wrong = weight, code
            size = np.square(right).sum() if relative else 1.0
            errors.append(np.square(wrong - right).sum() / size)
            x, bent = x @ weight.T, bent @ code.T
            if relu:
                x, bent = np.maximum(x, 0), np.maximum(bent, 0)
        return "outlier", int(np.argmax(errors))

    return blame


LAYER_TO_BLAME = Exercise(
    id="clinic.layer_to_blame",
    title="One layer is to blame",
    points=3,
    reference=layer_to_blame,
    cases=_blame_cases,
    harness=without_stage,
    look=seen("outlier", lambda *arguments: layer_to_blame(*arguments)[1]),
    lines=6,
    stages=STAGES,
    mistakes=(
        misread(
            layer_to_blame,
            "axis",
            "There is one scale for the whole layer here, so none is at the wrong place. What set its size?",
        ),
        misread(
            layer_to_blame,
            "overflow",
            "Everything is added in floats here. Look at the largest weight of each layer beside its others.",
        ),
        Mistake(
            "errors that came from before",
            _blamed(alone=False),
            "What comes in is wrong already, so late layers look worst. Give every layer the inputs that "
            "are right.",
        ),
        Mistake(
            "the largest number",
            _blamed(relative=False),
            "A layer with large outputs has large errors. Divide by the size of what should have come out.",
            also=(_blamed(alone=False, relative=False),),
        ),
        Mistake(
            "the weights' own errors",
            _blamed(by_weight=True),
            "A weight that meets an input which is always 0 may be as wrong as it likes: look at outputs.",
            also=(_blamed(by_weight=True, relative=False),),
        ),
        Mistake(
            "no ReLU in between",
            _blamed(relu=False),
            "A layer gets what the ReLU of the layer before lets through, and that is never below 0.",
        ),
    ),
)


# ---- one wrong axis ------------------------------------------------------------------------------
def channel_rounding(weight: np.ndarray, bits: int) -> tuple[str, np.ndarray]:
    """A scale for each output, over all that belongs to it."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return "axis", (np.round(weight / scale) * scale).astype(f32)


def _rounding(axes: Callable, guard: bool = True) -> Callable:
    def rounded(weight, bits):
        largest = np.abs(weight).max(axis=axes(weight), keepdims=True)
        if guard:
            largest = np.where(largest > 0, largest, 1)
        scale = largest / (2 ** (bits - 1) - 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return "axis", (np.round(weight / scale) * scale).astype(f32)

    return rounded


def _axis_cases(generator: np.random.Generator) -> list[Case]:
    def rows(*shape: int) -> np.ndarray:
        sizes = (2.0 ** generator.integers(-4, 5, shape[0])).reshape(-1, *(1,) * (len(shape) - 1))
        return (numbers_of(generator, *shape) * sizes).astype(f32)

    dead = rows(4, 6)
    dead[2] = 0
    return in_stages(
        ("two outputs", rows(2, 3), 4),
        ("as many outputs as inputs", rows(4, 4), 4),
        ("a convolution", rows(4, 3, 3, 3), 4),
        ("an output whose weights are 0", dead, 4),
        ("8 bits", rows(3, 5), 8),
    )


CHANNEL_ROUNDING = Exercise(
    id="clinic.channel_rounding",
    title="Right weights, wrong products",
    points=3,
    reference=channel_rounding,
    cases=_axis_cases,
    harness=without_stage,
    look=seen("axis", lambda *arguments: channel_rounding(*arguments)[1], 1e-5),
    lines=3,
    stages=STAGES,
    mistakes=(
        misread(
            channel_rounding,
            "outlier",
            "Take the largest weight away, and the product is as wrong. Which weights share a scale?",
        ),
        misread(
            channel_rounding,
            "group",
            "Every length divides here. Which index has a scale, and over which one does a product add up?",
        ),
        Mistake(
            "a scale for each input",
            _rounding(lambda w: 0),
            "Axis 0 of a weight are its outputs, and the maximum runs over them here: that leaves a scale "
            "for each input, which no product of codes can be multiplied with afterwards.",
        ),
        Mistake(
            "a scale for each filter's row",
            _rounding(lambda w: 1),
            "Right for matrices. A convolution has more axes than two, and all but the first belong to an "
            "output.",
            also=(_rounding(lambda w: -1),),
        ),
        Mistake(
            "one scale for all",
            _rounding(lambda w: None),
            "That is the layer-wide scale that it was to be better than.",
        ),
        Mistake(
            "an output of zeros becomes NaN",
            _rounding(lambda w: tuple(range(1, w.ndim)), guard=False),
            "0 divided by a scale of 0 is not a number: where all weights are 0, any scale will do but that.",
        ),
    ),
)


# ---- the group does not divide -------------------------------------------------------------------
def grouped_rounding(weight: np.ndarray, group: int, bits: int) -> tuple[str, np.ndarray]:
    """A scale for each so many inputs of a row; the last ones may be fewer."""
    out = np.empty_like(weight)
    for start in range(0, weight.shape[1], group):
        part = weight[:, start : start + group]
        largest = np.abs(part).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
        out[:, start : start + group] = np.round(part / scale) * scale
    return "group", out


def _in_groups(weight: np.ndarray, group: int, bits: int, rest: str) -> np.ndarray:
    whole = weight.shape[1] // group * group
    head, tail = weight[:, :whole], weight[:, whole:]
    done = grouped_rounding(head, group, bits)[1]
    if rest == "dropped":
        return done
    if rest == "zeros":
        return np.concatenate([done, np.zeros_like(tail)], axis=1)
    return np.concatenate([done, tail], axis=1)


def _across(weight: np.ndarray, group: int, bits: int) -> tuple[str, np.ndarray]:
    flat = np.pad(weight.ravel(), (0, -weight.size % group)).reshape(1, -1)
    done = grouped_rounding(flat, group, bits)[1]
    return "group", done.ravel()[: weight.size].reshape(weight.shape)


def _group_cases(generator: np.random.Generator) -> list[Case]:
    def weight(rows: int, columns: int) -> np.ndarray:
        sizes = 2.0 ** generator.integers(-3, 4, (rows, columns))
        return (numbers_of(generator, rows, columns) * sizes).astype(f32)

    silent = weight(3, 10)
    silent[1, 8:] = 0
    return in_stages(
        ("five inputs in groups of 4", weight(2, 5), 4, 4),
        ("100 inputs in groups of 32", weight(3, 100), 32, 4),
        ("a length that divides", weight(3, 16), 8, 4),
        ("a row shorter than a group", weight(4, 6), 8, 3),
        ("a last group of zeros", silent, 4, 4),
    )


GROUPED_ROUNDING = Exercise(
    id="clinic.grouped_rounding",
    title="Cannot reshape",
    points=3,
    reference=grouped_rounding,
    cases=_group_cases,
    harness=without_stage,
    look=seen("group", lambda *arguments: grouped_rounding(*arguments)[1], 1e-5),
    lines=6,
    stages=STAGES,
    mistakes=(
        misread(
            grouped_rounding,
            "axis",
            "Groups run along the inputs, as they should. Divide the number of inputs by the group.",
        ),
        misread(
            grouped_rounding,
            "names",
            "It is the array itself that cannot be laid out anew. Divide the number of inputs by the group.",
        ),
        Mistake(
            "the rest is dropped",
            lambda w, g, b: ("group", _in_groups(w, g, b, "dropped")),
            "The error is gone, and the last inputs with it: the weight that comes back is narrower.",
        ),
        Mistake(
            "the rest is 0",
            lambda w, g, b: ("group", _in_groups(w, g, b, "zeros")),
            "The last inputs were given no group, and count nothing now.",
        ),
        Mistake(
            "the rest in floats",
            lambda w, g, b: ("group", _in_groups(w, g, b, "floats")),
            "The last inputs are not rounded at all: their group is a shorter one.",
        ),
        Mistake(
            "groups across rows",
            _across,
            "Laid out flat, a group that is not full takes the next row's first weights: a row begins with "
            "a group of its own.",
        ),
        Mistake(
            "one group a row",
            lambda w, g, b: grouped_rounding(w, w.shape[1], b),
            "That fits any length, and is a scale for each row: the group was there to be finer.",
        ),
    ),
)


EXERCISES = (SLOW_LAYER, PRUNED_FILE, LAYER_TO_BLAME, CHANNEL_ROUNDING, GROUPED_ROUNDING)
