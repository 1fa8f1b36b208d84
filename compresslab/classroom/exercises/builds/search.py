"""Lab 07: a search that evolves, held to its rules by a simulated landscape."""

from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake
from compresslab.techniques.evolution import evolve

Shape = tuple[int, ...]
STAGES = (
    "looks are counted",
    "the best comes back",
    "children of the last ones",
    "the better of two",
)
COUNTED, BEST, CHILDREN, PARENTS = STAGES


def on_a_landscape(function: Callable) -> Callable:
    """The answer searches a table of worths; what it looked at, in order, is written down.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(
        table: np.ndarray,
        allowed: np.ndarray,
        start: np.ndarray,
        looks: int,
        seed: int,
        rules: int,
    ) -> tuple[object, np.ndarray, np.ndarray]:
        visits = []

        def worth(shape: tuple[int, ...]) -> float:
            visits.append(tuple(int(i) for i in shape))
            return float(table[visits[-1]])

        def neighbours(shape: tuple[int, ...]) -> list:
            found = []
            for axis, size in enumerate(table.shape):
                for step in (-1, 1):
                    if 0 <= shape[axis] + step < size:
                        found.append((*shape[:axis], shape[axis] + step, *shape[axis + 1 :]))
            return found

        def fits(shape: tuple[int, ...]) -> bool:
            return bool(allowed[tuple(shape)])

        def searched() -> tuple[object, np.ndarray]:
            visits.clear()
            first = [tuple(int(i) for i in row) for row in start]
            found = function(first, neighbours, fits, worth, looks, np.random.default_rng(seed))
            return found, np.array(visits, np.int64).reshape(-1, table.ndim)

        found, one = searched()
        return found, one, searched()[1] if rules == 4 else one

    return run


def near(shape: Shape, sizes: tuple[int, ...]) -> list[Shape]:
    """The shapes one step away in one direction, inside of the table."""
    found = []
    for axis, size in enumerate(sizes):
        for step in (-1, 1):
            if 0 <= shape[axis] + step < size:
                found.append((*shape[:axis], shape[axis] + step, *shape[axis + 1 :]))
    return found


def seen(
    out: object,
    table: np.ndarray,
    allowed: np.ndarray,
    start: np.ndarray,
    looks: int,
    _seed: int,
    rules: int,
) -> str:
    """The first of so many rules that a search broke: those of the case's stage and of the ones before."""
    found, visits, again = out
    visits = [tuple(map(int, row)) for row in np.asarray(visits)]
    count, population = len(visits), len(start)
    if count > looks:
        return f"it looked {count} times, allowed are {looks}"
    if len(set(visits)) < count:
        return "it looked at a shape twice"
    if not all(allowed[shape] for shape in visits):
        return "it looked at a shape that does not fit"
    if set(visits[:population]) != {tuple(map(int, row)) for row in start}:
        return "the first looks are not at the shapes to begin with"
    ended = not any(_new(shape, visits, allowed) for shape in visits[-population:])
    # A population by other rules, which are for later stages, may come to its end where this one does not.
    plenty = rules >= 3 or count == population or allowed.sum() > 8 * looks
    if count < looks and not ended and plenty:
        return f"it looked {count} times only, {looks} were allowed"
    if rules == 1:
        return RIGHT
    values = [float(table[shape]) for shape in visits]
    whole = isinstance(found, tuple | list | np.ndarray) and all(
        isinstance(i, int | np.integer) for i in found
    )
    if not whole:
        return "the answer must be a shape, a tuple of whole numbers"
    answer = tuple(map(int, found))
    if answer not in visits or table[answer] < max(values):
        return "what came back is not the best shape that it looked at"
    if rules == 2:
        return RIGHT
    ranks = []
    for place in range(population, count):
        alive = range(place - population, place)
        parents = [i for i in alive if visits[place] in near(visits[i], table.shape)]
        if not parents:
            return f"look {place + 1} is at no neighbour of the {population} shapes looked at before it"
        able = [i for i in alive if _new(visits[i], visits[:place], allowed)]
        worst = min(values[i] for i in able)
        lowest = all(values[i] == worst for i in parents)
        if rules == 4 and lowest and worst < max(values[i] for i in able):
            return (
                f"look {place + 1}: the child of the worst shape, which is never the better of two"
            )
        if len(able) == 4 and len(parents) == 1:
            ranks.append(sum(values[i] > values[parents[0]] for i in able))
    if rules < 4:
        return RIGHT
    if not np.array_equal(visits, np.asarray(again)):
        return "with the same generator it looked at other shapes: all draws must come from it"
    return _as_of_two(ranks)


def _as_of_two(ranks: list[int]) -> str:
    """Whether parents are the better of two of four: the best in half of the draws, the third in a sixth."""
    best, third = ranks.count(0), ranks.count(2)
    if best > 0.8 * len(ranks):
        return "the parent is nearly always the best of the population, not the better of two that were drawn"
    if best < 0.2 * len(ranks):
        return (
            "the parent is hardly ever the best of the population, which the better of two often is"
        )
    if third == 0:
        return "the parent is never the third best of the population, which the better of two sometimes is"
    return RIGHT


def _new(shape: Shape, visits: list[Shape], allowed: np.ndarray) -> list[Shape]:
    """The neighbours that fit and that nobody has looked at."""
    return [s for s in near(shape, allowed.shape) if allowed[s] and s not in visits]


def _evolving(
    fresh: bool = True,
    fitting: bool = True,
    goes: Callable = lambda population, worths: 0,
    chosen: Callable = max,
    returned: str = "best",
    one_more: int = 0,
    drawn: int = 2,
) -> Callable:
    """The search, with one thing or another done differently."""

    def search(start, neighbours, fits, worth, looks, generator):
        known = {shape: worth(shape) for shape in start}
        population, used = list(start), len(start)

        def around(shape):
            found = [s for s in neighbours(shape) if fits(s) or not fitting]
            return [s for s in found if s not in known] if fresh else found

        while used < looks + one_more and (able := [s for s in population if around(s)]):
            pair = generator.choice(len(able), min(drawn, len(able)), replace=False)
            near_it = around(chosen((able[i] for i in pair), key=known.__getitem__))
            child = near_it[generator.integers(len(near_it))]
            known[child], used = worth(child), used + 1
            population.pop(goes(population, known))
            population.append(child)
        if returned == "last":
            return population[-1]
        among = population if returned == "alive" else known
        return max(among, key=known.__getitem__)

    return search


def _at_random(start, neighbours, fits, worth, looks, generator):
    """A walk that follows nobody's worth: any neighbour of anything that was seen."""
    known = {shape: worth(shape) for shape in start}
    while len(known) < looks:
        shape = list(known)[generator.integers(len(known))]
        around = [s for s in neighbours(shape) if fits(s) and s not in known]
        if around:
            child = around[generator.integers(len(around))]
            known[child] = worth(child)
    return max(known, key=known.__getitem__)


def _worst_out(population: list, worths: dict) -> int:
    return min(range(len(population)), key=lambda i: worths[population[i]])


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(stage: str, label: str, sizes: tuple[int, ...], looks: int, share: float) -> Case:
        places = np.indices(sizes)
        top = [generator.integers(0, size) for size in sizes]
        hill = -sum(((p - t) / size) ** 2 for p, t, size in zip(places, top, sizes, strict=True))
        table = hill + 0.05 * generator.standard_normal(sizes)
        # What fits is a connected part: a budget on the sum.
        weight = sum(places)
        allowed = weight <= np.quantile(weight, share)
        inside = np.argwhere(allowed)
        start = inside[generator.permutation(len(inside))[:4]]
        rules = STAGES.index(stage) + 1
        args = (table, allowed, start, looks, int(generator.integers(1 << 30)), rules)
        return Case(label, args, stage)

    small, middle, wide = (4, 4, 4), (7, 7, 7), (7, 7, 7, 2)
    return [
        case(COUNTED, "twelve looks", middle, 12, 0.6),
        case(COUNTED, "as many looks as shapes to begin with", middle, 4, 0.6),
        case(COUNTED, "nearly everything is looked at", small, 20, 0.4),
        case(COUNTED, "little fits", middle, 16, 0.2),
        *(case(BEST, f"landscape {n}", middle, 14, 0.6) for n in (1, 2, 3)),
        *(case(CHILDREN, f"landscape {n}", wide, 24, 0.5) for n in (4, 5, 6)),
        *(case(PARENTS, f"landscape {n}", wide, 110, 0.9) for n in (7, 8, 9)),
    ]


EVOLVE = Exercise(
    id="slim.evolve",
    title="A search that evolves",
    points=8,
    reference=evolve,
    cases=_cases,
    harness=on_a_landscape,
    look=seen,
    lines=16,
    stages=tuple((stage, 2) for stage in STAGES),
    mistakes=(
        Mistake(
            "looks twice",
            _evolving(fresh=False),
            "A shape that was looked at before costs a look and tells nothing: leave it out of the "
            "neighbours.",
        ),
        Mistake(
            "outside of the budget",
            _evolving(fitting=False),
            "Ask `fits` before you look: a neighbour may be too large.",
        ),
        Mistake(
            "a look too many",
            _evolving(one_more=1),
            "The looks at the first shapes count as well.",
        ),
        Mistake(
            "the last one",
            _evolving(returned="last"),
            "The last child need not be the best: keep all that you looked at.",
        ),
        Mistake(
            "the best of the living",
            _evolving(returned="alive"),
            "The best shape may have left the population by its age; the answer is the best ever seen.",
        ),
        Mistake(
            "the worst goes",
            _evolving(goes=_worst_out),
            "Here the oldest goes, not the worst: a lucky look must not stay for ever.",
        ),
        Mistake(
            "the worse of two",
            _evolving(chosen=min),
            "Of the two that are drawn the better one is the parent.",
        ),
        Mistake(
            "always the best",
            _evolving(drawn=4),
            "Two are drawn, and the better of *them* is the parent: with the best of all no other road is "
            "ever tried.",
        ),
        Mistake(
            "the best of three",
            _evolving(drawn=3),
            "Two are drawn, not three: the third best must have its turn as well.",
        ),
        Mistake(
            "neighbours of anything",
            _at_random,
            "Parents come from the population, the last few that were looked at, and the better of two.",
        ),
    ),
)

EXERCISES = (EVOLVE,)
