"""A search that evolves (进化搜索): the best of a few, changed in one place, again and again.

    population   the last few shapes that were looked at
    a turn       two of those with a neighbour that nobody has looked at are drawn, the better one is the
                 parent; such a neighbour of it is the child; it comes in, the oldest goes out
    the answer   the best of all that were looked at

Real et al. 2019 (regularized evolution, https://arxiv.org/abs/1802.01548, algorithm 1): that the *oldest*
goes, and not the worst, keeps a lucky look from ruling the population for ever. What costs is a look (a
training, a measurement), so looks are counted, and no shape is looked at twice. Where nobody in the
population has a new neighbour, the search is over before its looks are.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

Shape = TypeVar("Shape", bound=Hashable)


def evolve(
    start: Sequence[Shape],
    neighbours: Callable[[Shape], Sequence[Shape]],
    fits: Callable[[Shape], bool],
    worth: Callable[[Shape], float],
    looks: int,
    generator: np.random.Generator,
) -> Shape:
    """The best shape that so many looks find.

    Args:
        start: the first population, different shapes that fit.
        neighbours: of a shape, those one change away, fitting or not.
        fits: whether a shape is within the budget; free of charge.
        worth: how good a shape is, higher is better: a look.
        looks: how many there are, those at the first population included.
        generator: of all draws.

    Raises:
        ValueError: for fewer looks than shapes to begin with, or fewer than two of those.
    """
    if not 2 <= len(start) <= looks:
        raise ValueError(
            f"start must hold from 2 to {looks} shapes, as many as there are looks, got {len(start)}"
        )
    seen = {shape: worth(shape) for shape in start}
    population = list(start)

    def fresh(shape: Shape) -> list[Shape]:
        return [near for near in neighbours(shape) if fits(near) and near not in seen]

    while len(seen) < looks and (parents := [shape for shape in population if fresh(shape)]):
        drawn = generator.choice(len(parents), min(2, len(parents)), replace=False)
        around = fresh(max((parents[i] for i in drawn), key=seen.__getitem__))
        child = around[generator.integers(len(around))]
        seen[child] = worth(child)
        population = [*population[1:], child]
    return max(seen, key=seen.__getitem__)
