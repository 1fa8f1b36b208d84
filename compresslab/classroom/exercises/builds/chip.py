"""Lab 12: the activations of a network in one small arena."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake
from compresslab.runtime.arena import Life, places

APART, AGAIN, LARGEST = "nothing overlaps", "places are used again", "the largest first"


def place_activations(sizes: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Where each activation begins, greedy by size: int64 [n].

    Args:
        sizes: bytes of each, int64 [n].
        first: the step that makes it.
        last: the last step that reads it; at steps `first` to `last` nobody else may have its bytes.
    """
    lives = [Life(*map(int, row)) for row in zip(sizes, first, last, strict=True)]
    return np.array(places(lives)[0], np.int64)


def without_goal(function: Callable) -> Callable:
    """The answer does not see how many bytes are enough."""
    return lambda sizes, first, last, goal: function(sizes, first, last)


def seen(out: object, sizes: np.ndarray, first: np.ndarray, last: np.ndarray, goal: int) -> str:
    """What a simulator of the arena says."""
    starts = np.asarray(out) if isinstance(out, list | tuple | np.ndarray) else np.zeros((0, 0))
    if starts.shape != sizes.shape or starts.dtype.kind not in "iu":
        if len(sizes) or starts.size:
            return f"there must be {len(sizes)} whole numbers, one for each activation"
        return RIGHT
    starts = starts.astype(np.int64)
    if (starts < 0).any():
        return f"activation {int(starts.argmin())} begins in front of the arena"
    for i in range(len(sizes)):
        for j in range(i):
            meet = first[i] <= last[j] and first[j] <= last[i]
            if meet and starts[i] < starts[j] + sizes[j] and starts[j] < starts[i] + sizes[i]:
                return f"activations {j} and {i} are needed at the same time and overlap"
    arena = int((starts + sizes).max(initial=0))
    return RIGHT if arena <= goal else f"the arena takes {arena} bytes where {goal} are enough"


def _placed(
    order: Callable = lambda sizes, first: np.lexsort((first, -sizes)),
    meet: Callable = lambda first, last, a, b: first[a] <= last[b] and first[b] <= last[a],
    begin: Callable | None = None,
) -> Callable:
    """Placing one after another, with one thing or another done differently."""

    def lowest(taken: list[tuple[int, int]], size: int) -> int:
        start = 0
        for a, b in sorted(taken):
            if a >= start + size:
                break
            start = max(start, b)
        return start

    find = begin or lowest

    def place(sizes, first, last):
        starts = np.zeros(len(sizes), np.int64)
        done: list[int] = []
        for i in order(sizes, first):
            taken = [(starts[j], starts[j] + sizes[j]) for j in done if meet(first, last, i, j)]
            starts[i] = find(taken, sizes[i])
            done.append(i)
        return starts

    return place


def _unmeasured(taken: list[tuple[int, int]], size: int) -> int:
    """The beginning, if nobody stands there; else behind all."""
    if all(start > 0 for start, _ in taken):
        return 0
    return max((end for _, end in taken), default=0)


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, sizes: list, first: list, last: list) -> Case:
        arrays = [np.array(a, np.int64) for a in (sizes, first, last)]
        lives = [Life(*map(int, row)) for row in zip(*arrays, strict=True)]
        whole = sum(int(s) for s in arrays[0])
        return Case(label, (*arrays, whole if stage == APART else places(lives)[1]), stage)

    def drawn(count: int, steps: int) -> tuple[list, list, list]:
        first = np.sort(generator.integers(0, steps, count))
        last = first + generator.integers(1, 5, count)
        return (16 * generator.integers(1, 40, count)).tolist(), first.tolist(), last.tolist()

    chain = ([256, 4096, 1024, 2048, 512], list(range(5)), [1, 2, 3, 4, 5])
    around = ([1024, 1024, 1024, 1024], [0, 1, 2, 3], [3, 2, 3, 4])
    return [
        case(APART, "two that meet", [64, 32], [0, 1], [1, 2]),
        case(APART, "a chain", *chain),
        case(APART, "one that skips two steps", *around),
        case(APART, "one activation", [100], [0], [1]),
        case(APART, "many", *drawn(14, 10)),
        case(AGAIN, "a chain needs its two largest neighbours", *chain),
        case(AGAIN, "two that never meet", [64, 64], [0, 5], [1, 6]),
        case(AGAIN, "a chain of equals", [100] * 6, list(range(6)), [1, 2, 3, 4, 5, 6]),
        case(LARGEST, "a hole between two", [30, 10, 20, 40], [0, 0, 2, 3], [4, 1, 3, 4]),
        case(LARGEST, "a small one in the way", [10, 50, 10, 50], [0, 1, 0, 2], [3, 1, 1, 3]),
        *(case(LARGEST, f"{n} drawn at random", *drawn(n, n)) for n in (8, 12, 16, 20, 24)),
    ]


PLACE_ACTIVATIONS = Exercise(
    id="combine.place_activations",
    title="Activations in one arena",
    points=6,
    reference=place_activations,
    cases=_cases,
    harness=without_goal,
    look=seen,
    lines=12,
    stages=((APART, 2), (AGAIN, 2), (LARGEST, 2)),
    mistakes=(
        Mistake(
            "one behind the other",
            lambda sizes, first, last: np.cumsum(sizes) - sizes,
            "Every activation has bytes of its own here. When its last reader has run, they are free for "
            "others.",
        ),
        Mistake(
            "all at the beginning",
            lambda sizes, first, last: np.zeros(len(sizes), np.int64),
            "Two activations that are needed at the same time cannot have the same bytes.",
        ),
        Mistake(
            "free while it is still read",
            _placed(meet=lambda first, last, a, b: first[a] < last[b] and first[b] < last[a]),
            "A step reads its input while it writes its result: an activation is needed up to `last`, "
            "that step included.",
        ),
        Mistake(
            "in order of execution",
            _placed(order=lambda sizes, first: np.argsort(first, kind="stable")),
            "Placed in the order of the steps, small ones stand in the way of large ones: begin with the "
            "largest.",
        ),
        Mistake(
            "the smallest first",
            _placed(order=lambda sizes, first: np.lexsort((first, sizes))),
            "Begin with the largest: the small ones find room in the holes that are left.",
        ),
        Mistake(
            "never in a hole",
            _placed(begin=lambda taken, size: max((b for _, b in taken), default=0)),
            "Go through those that it meets in order of their places, and take the first gap that is large "
            "enough.",
        ),
        Mistake(
            "a hole that is too small",
            _placed(
                begin=lambda taken, size: (
                    0 if all(a > 0 for a, _ in taken) else max((b for _, b in taken), default=0)
                )
            ),
            "A gap must hold the whole activation: compare its length with the size.",
        ),
    ),
)

EXERCISES = (PLACE_ACTIVATIONS,)
