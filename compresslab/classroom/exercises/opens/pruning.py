"""Lab 04, open: a network with five weights of a hundred left."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

LEFT = 0.05
EXAMPLES = 4_000


def sparse_network(
    weights: Arrays, biases: Arrays, images: np.ndarray, labels: np.ndarray, remaining: float
) -> tuple[Arrays, Arrays]:
    """Pruned little by little while it trains, with a falling rate."""
    return _trained(weights, biases, images, labels, remaining)


def _trained(weights, biases, images, labels, remaining, epochs=40, gradual=0.7, rate=8e-3):
    torch.manual_seed(0)
    ws = [torch.tensor(w, requires_grad=True) for w in weights]
    bs = [torch.tensor(b, requires_grad=True) for b in biases]
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam([*ws, *bs], rate)
    steps, step = max(1, epochs * (len(x) // 100)), 0
    masks = networks.largest(ws, 1.0 if gradual else remaining)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(100):
            if gradual and step % 20 == 0:
                part = min(1.0, step / (gradual * steps))
                masks = networks.largest(ws, 1 - (1 - remaining) * (1 - (1 - part) ** 3))
            with torch.no_grad():
                for w, m in zip(ws, masks, strict=True):
                    w *= m
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-5
            h = x[batch]
            for number, (w, b) in enumerate(zip(ws, bs, strict=True)):
                h = torch.nn.functional.linear(h, w, b)
                h = torch.relu(h) if number + 1 < len(ws) else h
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(h, y[batch]).backward()
            optimizer.step()
            step += 1
    masks = networks.largest(ws, remaining)
    found = tuple((w.detach() * m).numpy() for w, m in zip(ws, masks, strict=True))
    return found, tuple(b.detach().numpy() for b in bs)


def _one_shot(weights, biases, images, labels, remaining):
    """The plain way: prune, and leave it."""
    masks = networks.largest([torch.from_numpy(w) for w in weights], remaining)
    return tuple(w * m.numpy() for w, m in zip(weights, masks, strict=True)), biases


def _per_layer(weights, biases, images, labels, remaining):
    found = []
    for w in weights:
        border = np.sort(np.abs(w), axis=None)[::-1][int(remaining * w.size)]
        found.append(np.where(np.abs(w) > border, w, np.float32(0)))
    return tuple(found), biases


def _dense(weights, biases, images, labels, remaining):
    return weights, biases


def measured(case: Case, found: object) -> float | str:
    """Accuracy of the network that came back; a sentence if it breaks the rules."""
    if type(found) not in (tuple, list) or len(found) != 2:
        return "the answer must be the weights and the biases"
    weights, biases = found
    wrong = networks.malformed(weights, biases)
    shapes = [w.shape for w in case.args[0]]
    if wrong or [w.shape for w in weights] != shapes:
        return wrong or f"the weights must keep their shapes {shapes}"
    used, allowed = sum(np.count_nonzero(w) for w in weights), sum(w.size for w in weights)
    allowed = int(allowed * case.args[4])
    if used > allowed:
        return f"{used:,} weights are not zero, allowed are {allowed:,}"
    return networks.accuracy(weights, biases)


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    weights, biases = networks.mlp(int(generator.integers(3)))
    label = f"{100 * LEFT:g} % of the weights of a perceptron, {EXAMPLES:,} images to train on"
    return [Case(label, (weights, biases, x[chosen], y[chosen], LEFT))]


SPARSE_NETWORK = Exercise(
    id="prune.sparse_network",
    title="Five weights of a hundred",
    points=12,
    reference=sparse_network,
    cases=_cases,
    lines=25,
    medals=Medals(
        bronze=50.0,
        silver=70.0,
        gold=76.0,
        measure=measured,
        unit="% of the validation images",
        plain=_one_shot,
    ),
    mistakes=(
        Mistake(
            "pruned, not tuned",
            _one_shot,
            "The largest weights are kept, and nothing is trained after that: the ones that stay can make "
            "up for "
            "much of what is gone.",
        ),
        Mistake(
            "each layer by itself, not tuned",
            _per_layer,
            "The last layer is small and loses as large a fraction as the first: compare the weights of "
            "all "
            "layers, and train after pruning.",
        ),
        Mistake(
            "nothing pruned",
            _dense,
            "These are the weights as they were. Only the fraction `remaining` of all weights may differ "
            "from 0.",
        ),
    ),
)

EXERCISES = (SPARSE_NETWORK,)
