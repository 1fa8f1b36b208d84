"""Lab 05, open: a mask for a network before it is trained.

The checker trains what is left of the start, twelve epochs, always the same way. A mask may come from the
start alone, from gradients on the images (Lee et al. 2019, SNIP), or from training and rewinding, as far as
the processor time goes.
"""

import functools

import numpy as np
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

EXAMPLES, LEFT, EPOCHS = 3_000, 0.04, 12
SIZES = (256, 300, 100, networks.CLASSES)


def early_mask(initial: Arrays, images: np.ndarray, labels: np.ndarray, remaining: float) -> Arrays:
    """Magnitudes after training, in rounds: each begins anew from the start under the mask so far."""
    return _in_rounds(initial, images, labels, remaining, rounds=3)


def _in_rounds(initial, images, labels, remaining, rounds, epochs=20):
    masks = tuple(np.ones(w.shape, bool) for w in initial)
    for number in range(1, rounds + 1):
        trained = _trained(initial, masks, images, labels, epochs)
        sizes = [np.where(m, np.abs(w), -1) for w, m in zip(trained, masks, strict=True)]
        masks = _largest(sizes, remaining ** (number / rounds))
    return masks


def _largest(sizes: list[np.ndarray], fraction: float) -> Arrays:
    """The largest of all layers together."""
    flat = np.concatenate([s.ravel() for s in sizes])
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-flat, kind="stable")[: int(fraction * flat.size)]] = True
    ends = np.cumsum([s.size for s in sizes])[:-1]
    return tuple(k.reshape(s.shape) for k, s in zip(np.split(keep, ends), sizes, strict=True))


def _logits(ws: list[torch.Tensor], bs: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for number, (w, b) in enumerate(zip(ws, bs, strict=True)):
        x = torch.nn.functional.linear(x, w, b)
        x = torch.relu(x) if number + 1 < len(ws) else x
    return x


def _trained(
    initial: Arrays, masks: Arrays, images: np.ndarray, labels: np.ndarray, epochs: int
) -> list[np.ndarray]:
    weights, _ = _fitted(initial, masks, images, labels, epochs)
    return weights


def _fitted(initial, masks, images, labels, epochs):
    """Weights under their masks and biases, after training."""
    ws = [torch.tensor(w, requires_grad=True) for w in initial]
    bs = [torch.zeros(len(w), requires_grad=True) for w in initial]
    kept = [torch.from_numpy(m.astype(np.float32)) for m in masks]

    def logits(x: torch.Tensor) -> torch.Tensor:
        return _logits([w * m for w, m in zip(ws, kept, strict=True)], bs, x)

    networks.descended(logits, [*ws, *bs], images, labels, epochs, 1.2e-2)
    left = [(w * m).detach().numpy() for w, m in zip(ws, kept, strict=True)]
    return left, [b.detach().numpy() for b in bs]


@functools.cache
def _start(seed: int) -> Arrays:
    """Weights before training, as torch draws them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = zip(SIZES[1:], SIZES[:-1], strict=True)
    return tuple(
        ((2 * torch.rand(m, n, generator=generator) - 1) / n**0.5).numpy() for m, n in shapes
    )


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    initial = _start(int(generator.integers(2**31)))
    label = f"{100 * LEFT:g} % of a perceptron's weights, {EXAMPLES:,} images"
    return [Case(label, (initial, x[chosen], y[chosen], LEFT))]


def measured(case: Case, masks: object) -> float | str:
    """Accuracy of what the masks leave, after the checker's training; a sentence if they break the rules."""
    initial, images, labels, remaining = case.args
    if type(masks) not in (tuple, list) or len(masks) != len(initial):
        return f"there must be {len(initial)} masks, one for each layer"
    for mask, w in zip(masks, initial, strict=True):
        if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != w.shape:
            return f"a mask must be bool {w.shape}, got {compare.show(mask)}"
    used, allowed = sum(int(m.sum()) for m in masks), int(remaining * sum(w.size for w in initial))
    if used > allowed:
        return f"the masks leave {used:,} weights, allowed are {allowed:,}"
    return networks.accuracy(*_fitted(initial, masks, images, labels, EPOCHS))


# ---- other ways ------------------------------------------------------------------------------------
def _random(initial, images, labels, remaining):
    generator = np.random.default_rng(0)
    return _largest([generator.random(w.shape) for w in initial], remaining)


def _magnitude(initial, images, labels, remaining):
    """The plain way: the largest weights of the start."""
    return _largest([np.abs(w) for w in initial], remaining)


def _first_gradient(initial, images, labels, remaining):
    """SNIP: how much the loss would change if a weight were gone, from one gradient."""
    ws = [torch.tensor(w, requires_grad=True) for w in initial]
    bs = [torch.zeros(len(w)) for w in initial]
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    torch.nn.functional.cross_entropy(_logits(ws, bs, x), y).backward()
    return _largest([np.abs(w.grad.numpy() * w.detach().numpy()) for w in ws], remaining)


def _in_one_go(initial, images, labels, remaining):
    return _in_rounds(initial, images, labels, remaining, rounds=1)


def _too_many(initial, images, labels, remaining):
    return _magnitude(initial, images, labels, 2 * remaining)


EARLY_MASK = Exercise(
    id="tickets.early_mask",
    title="A ticket before training",
    points=6,
    reference=early_mask,
    cases=_cases,
    lines=25,
    medals=Medals(
        bronze=35.0,
        silver=53.0,
        gold=61.5,
        measure=measured,
        unit="% of the validation images, after the checker's training",
        plain=_magnitude,
    ),
    mistakes=(
        Mistake(
            "the largest weights of the start",
            _magnitude,
            "A start is random, and the last layer's is the widest: all weights that you keep are "
            "there, and the "
            "layers before it are empty. Look at the images: at a gradient, or at what becomes of "
            "the weights in "
            "training.",
        ),
        Mistake(
            "weights at random",
            _random,
            "A random mask is the control. Anything that looks at the images should do better.",
        ),
        Mistake(
            "one gradient of the start",
            _first_gradient,
            "One gradient is quick, and says how much each weight matters at the start. What matters "
            "in the end "
            "shows only when the network trains: you have 20 seconds of processor time.",
        ),
        Mistake(
            "trained once, pruned in one go",
            _in_one_go,
            "Trained magnitudes are the right signal. Go down in rounds, each from the start under "
            "the mask so "
            "far: later rounds see what is left alone.",
        ),
        Mistake(
            "too many weights",
            _too_many,
            "Count over all layers: at most `remaining` of all weights may stay.",
        ),
    ),
)

EXERCISES = (EARLY_MASK,)
