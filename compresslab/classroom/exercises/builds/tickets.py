"""Lab 05: the search for a winning ticket, round by round."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Case, Exercise, Mistake

ONCE, ROUNDS, WHOLE, UNTOUCHED = "one round", "several rounds", "across layers", "as it was"


def find_ticket(
    initial: tuple[np.ndarray, ...], train: Callable, remaining: float, rounds: int
) -> tuple[np.ndarray, ...]:
    """Masks, bool, of the weights that stay after rounds of training, pruning and rewinding."""
    return _searched()(initial, train, remaining, rounds)


def at_work(function: Callable) -> Callable:
    """The masks found with a training of known outcome, and what training was handed in each round."""

    def run(stage, initial, drift, remaining, rounds):
        handed, copies = [], tuple(w.copy() for w in initial)

        def train(weights):
            handed.append(tuple(np.asarray(w, np.float32).copy() for w in weights))
            number = len(handed)
            kicks = [np.roll(d, number).reshape(d.shape) for d in drift]
            return tuple(w * (1 + k) + 1.5 * k for w, k in zip(weights, kicks, strict=True))

        masks = function(initial, train, remaining, rounds)
        masks = tuple(np.asarray(m) for m in masks)
        if stage == "as it was":
            same = all(np.array_equal(a, b) for a, b in zip(initial, copies, strict=True))
            return len(handed), bool(same), tuple(handed)
        return masks

    return run


def _searched(
    rewinds: bool = True,
    masked: bool = True,
    whole: bool = True,
    geometric: bool = True,
    again: bool = True,
    by: Callable = np.abs,
    order: int = 1,
    at_once: bool = False,
) -> Callable:
    """The search, with one thing or another done differently."""

    def find_ticket(initial, train, remaining, rounds):
        masks = [np.ones(w.shape, bool) for w in initial]
        now = [w.copy() for w in initial]
        total = sum(w.size for w in initial)
        for number in range(1, rounds + 1):
            weights = [w * m if masked else w.copy() for w, m in zip(now, masks, strict=True)]
            trained = train(tuple(weights))
            fraction = (
                remaining ** (number / rounds)
                if geometric
                else 1 - (1 - remaining) * number / rounds
            )
            fraction = remaining if at_once else fraction
            scores = [order * by(w) for w in trained]
            if again:
                scores = [np.where(m, s, -np.inf) for s, m in zip(scores, masks, strict=True)]
            if whole:
                keep = round(fraction * total)
                flat = np.concatenate([s.ravel() for s in scores])
                chosen = np.zeros(total, bool)
                chosen[np.argsort(-flat, kind="stable")[:keep]] = True
                ends = np.cumsum([w.size for w in initial])[:-1]
                parts = np.split(chosen, ends)
                masks = [p.reshape(w.shape) for p, w in zip(parts, initial, strict=True)]
            else:
                masks = []
                for s in scores:
                    one = np.zeros(s.size, bool)
                    one[np.argsort(-s.ravel(), kind="stable")[: round(fraction * s.size)]] = True
                    masks.append(one.reshape(s.shape))
            now = list(initial) if rewinds else list(trained)
        return tuple(masks)

    return find_ticket


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, shapes: tuple, remaining: float, rounds: int) -> Case:
        sizes = generator.uniform(0.3, 2, len(shapes))
        pairs = zip(shapes, sizes, strict=True)
        initial = tuple(generator.normal(0, s, shape).astype(np.float32) for shape, s in pairs)
        drift = tuple(generator.normal(0, 0.6, shape).astype(np.float32) for shape in shapes)
        return Case(label, (stage, initial, drift, remaining, rounds), stage)

    one, two = ((4, 5),), ((6, 4), (3, 6))
    equal = (np.where(generator.random((3, 6)) < 0.5, 1, -1).astype(np.float32),)
    still = (np.zeros((3, 6), np.float32),)
    return [
        Case("equal magnitudes: the earlier ones stay", (ONCE, equal, still, 0.5, 1), ONCE),
        case(ONCE, "half of one layer", one, 0.5, 1),
        case(ONCE, "a fifth of one layer", ((5, 8),), 0.2, 1),
        case(ROUNDS, "a quarter in two rounds", one, 0.25, 2),
        case(ROUNDS, "a tenth in three", ((10, 12),), 0.1, 3),
        case(WHOLE, "two layers, a third", two, 0.3, 2),
        case(WHOLE, "three layers, four rounds", ((8, 9), (9, 5), (3, 9)), 0.15, 4),
        case(UNTOUCHED, "what training is handed, round by round", two, 0.25, 2),
        case(UNTOUCHED, "the same of three rounds", ((12, 15),), 0.2, 3),
    ]


FIND_TICKET = Exercise(
    id="tickets.find_ticket",
    title="Find a winning ticket",
    points=8,
    reference=find_ticket,
    cases=_cases,
    harness=at_work,
    lines=18,
    tolerance=1e-5,
    stages=((ONCE, 2), (ROUNDS, 2), (WHOLE, 2), (UNTOUCHED, 2)),
    mistakes=(
        Mistake(
            "not rewound",
            _searched(rewinds=False),
            "After each round the weights that stay go back to their *initial* values; training on is "
            "another "
            "experiment.",
        ),
        Mistake(
            "trained without the mask",
            _searched(masked=False),
            "What was pruned must be 0 when training begins again: hand `train` the masked weights.",
        ),
        Mistake(
            "each layer by itself",
            _searched(whole=False),
            "The smallest weights of the *whole* network go: sort all layers together.",
        ),
        Mistake(
            "the same number in every round",
            _searched(geometric=False),
            "Each round keeps the same fraction of what is left: remaining ** (round / rounds).",
        ),
        Mistake(
            "pruned weights come back",
            _searched(again=False),
            "Training moved them away from 0 here. What was pruned once has lost its place: give it the "
            "lowest "
            "score.",
        ),
        Mistake(
            "largest pruned",
            _searched(order=-1),
            "The *smallest* magnitudes go.",
        ),
        Mistake(
            "signed instead of absolute",
            _searched(by=lambda w: w),
            "A weight of -2 is a large one: compare magnitudes.",
        ),
        Mistake(
            "all in the first round",
            _searched(at_once=True),
            "That is one-shot pruning, repeated. Each round removes a part.",
        ),
    ),
)

EXERCISES = (FIND_TICKET,)
