"""Lab 02, open: a network's weights in two bits, without training."""

import numpy as np

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

EXAMPLES = 1_000
LEVELS = 4
SHRUNK = np.linspace(1, 0.3, 15)
"""Fractions of a row's range that a search tries."""
Layer = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def two_bits(weights: Arrays, biases: Arrays, images: np.ndarray) -> tuple[Layer, ...]:
    """Columns that make up for one another, scales fitted to the codes, and corrected biases.

    Frantar et al. 2023, "GPTQ", section 3, for the first.
    """
    return _walked(weights, biases, images, _made_up_for, corrected=True)


def _walked(weights, biases, images, coded, corrected):
    """Layer by layer, on what the layers before it give once they are rounded."""
    found, x, exact = [], images, images
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        codes, scale, offset = coded(w, x)
        rounded = codes * scale[:, None] + offset[:, None]
        wanted = exact @ w.T + b
        bias = b + (wanted - x @ rounded.T - b).mean(0) if corrected else b
        found.append((codes, scale, offset, bias.astype(np.float32)))
        if number + 1 < len(weights):
            x = np.maximum(x @ rounded.T + bias, 0)
            exact = np.maximum(wanted, 0)
    return tuple(found)


def _codes(w, low, high):
    scale = np.maximum((high - low) / (LEVELS - 1), 1e-12).astype(np.float32)
    codes = np.clip(np.rint((w - low[:, None]) / scale[:, None]), 0, LEVELS - 1)
    return codes.astype(np.uint8), scale, low.astype(np.float32)


def _whole_range(w, _x):
    return _codes(w, w.min(1), w.max(1))


def _least_error(w, _x):
    """Of the ranges tried, for each row the one whose squared error is least."""
    best, found = np.full(len(w), np.inf), None
    for below in SHRUNK:
        for above in SHRUNK:
            codes, scale, offset = _codes(w, below * w.min(1), above * w.max(1))
            error = ((codes * scale[:, None] + offset[:, None] - w) ** 2).sum(1)
            better = error < best
            best = np.where(better, error, best)
            parts = (codes, scale, offset)
            found = (
                parts
                if found is None
                else tuple(_chosen(better, *p) for p in zip(parts, found, strict=True))
            )
    return found


def _chosen(better, new, old):
    return np.where(better[:, None] if new.ndim == 2 else better, new, old)


def _made_up_for(w, x):
    """Columns make up for one another, scales and offsets are fitted to the codes, and both once more."""
    moment = (x.T @ x / len(x)).astype(np.float64)
    moment += 0.01 * np.trace(moment) / len(moment) * np.eye(len(moment))
    factor = np.linalg.cholesky(np.linalg.inv(moment)).T
    _, scale, offset = _least_error(w, x)
    for _ in range(2):
        codes = _column_by_column(w, scale, offset, factor)
        scale, offset = _fitted(w, codes, moment)
    return codes, scale, offset


def _column_by_column(w, scale, offset, factor):
    left, codes = w.astype(np.float64), np.empty(w.shape, np.uint8)
    for j in range(w.shape[1]):
        codes[:, j] = np.clip(np.rint((left[:, j] - offset) / scale), 0, LEVELS - 1)
        error = (left[:, j] - (codes[:, j] * scale + offset)) / factor[j, j]
        left[:, j:] -= np.outer(error, factor[j, j:])
    return codes


def _fitted(w, codes, moment):
    """For each row the scale and offset whose outputs are nearest: least squares of two unknowns."""
    found = np.empty((len(w), 2))
    for i, row in enumerate(codes.astype(np.float64)):
        basis = np.stack([row, np.ones(len(row))])
        found[i] = np.linalg.lstsq(basis @ moment @ basis.T, basis @ moment @ w[i], rcond=None)[0]
    return tuple(found.T.astype(np.float32))


def _plain(weights, biases, images):
    """From the smallest to the largest weight of each row, rounded to the nearest."""
    return _walked(weights, biases, images, _whole_range, corrected=False)


def _clipped(weights, biases, images):
    return _walked(weights, biases, images, _least_error, corrected=False)


def _clipped_and_corrected(weights, biases, images):
    return _walked(weights, biases, images, _least_error, corrected=True)


def _one_range(weights, biases, images):
    def coded(w, _x):
        return _codes(w, np.full(len(w), w.min()), np.full(len(w), w.max()))

    return _walked(weights, biases, images, coded, corrected=False)


def _three_bits(weights, biases, images):
    def coded(w, _x):
        scale = ((w.max(1) - w.min(1)) / 7).astype(np.float32)
        codes = np.rint((w - w.min(1)[:, None]) / scale[:, None]).astype(np.uint8)
        return codes, scale, w.min(1).astype(np.float32)

    return _walked(weights, biases, images, coded, corrected=False)


def measured(case: Case, layers: object) -> float | str:
    """Accuracy of the network with these weights; a sentence if they break the rules."""
    weights = case.args[0]
    if type(layers) not in (tuple, list) or len(layers) != len(weights):
        return f"there must be {len(weights)} layers"
    for layer, w in zip(layers, weights, strict=True):
        wrong = _wrong(layer, w.shape)
        if wrong:
            return wrong
    rounded = [q * s[:, None] + o[:, None] for q, s, o, _ in layers]
    return networks.accuracy(rounded, [layer[3] for layer in layers])


def _wrong(layer: object, shape: tuple[int, int]) -> str:
    if type(layer) not in (tuple, list) or len(layer) != 4:
        return "a layer must be codes, scales, offsets and bias"
    if not all(isinstance(part, np.ndarray) for part in layer):
        return "codes, scales, offsets and bias must be arrays"
    codes, *others = layer
    if codes.dtype != np.uint8 or codes.shape != shape:
        return f"codes must be uint8 {shape}, got {codes.dtype} {codes.shape}"
    if codes.size and codes.max() >= LEVELS:
        return f"a code of two bits must be 0 to 3, got {compare.show(codes.max())}"
    for name, part in zip(("scales", "offsets", "bias"), others, strict=True):
        if part.dtype != np.float32 or part.shape != shape[:1]:
            return f"{name} must be float32 {shape[:1]}, got {part.dtype} {part.shape}"
        if not np.isfinite(part).all():
            return f"{name} must be finite"
    return ""


def _cases(generator: np.random.Generator) -> list[Case]:
    cases, (x, _) = [], networks.images()
    for seed in range(3):
        some = generator.choice(len(x), EXAMPLES, replace=False)
        cases.append(Case(f"network {seed + 1}", (*networks.mlp(seed), x[some])))
    return cases


TWO_BITS = Exercise(
    id="ptq.two_bits",
    title="Two bits without training",
    points=12,
    reference=two_bits,
    cases=_cases,
    lines=30,
    medals=Medals(
        bronze=70.0,
        silver=76.5,
        gold=80.0,
        measure=measured,
        unit="% of the validation images, mean of three networks",
        plain=_plain,
    ),
    mistakes=(
        Mistake(
            "the whole range",
            _plain,
            "The grid reaches from the smallest to the largest weight. With four codes the few large "
            "weights cost all the others too much: where would you clip?",
        ),
        Mistake(
            "one range for the layer",
            _one_range,
            "All rows share one range. An output channel with small weights then has a code or two for "
            "all of them.",
        ),
        Mistake(
            "rounded well, and nothing made up for",
            _clipped,
            "The ranges are good. Now use the images: what a layer's outputs are off by on the average "
            "can be taken from its bias, and what a column is off by can be made up for by the columns "
            "that are still to come.",
        ),
        Mistake(
            "three bits",
            _three_bits,
            "A code of two bits is 0, 1, 2 or 3.",
        ),
    ),
)

EXERCISES = (TWO_BITS,)
