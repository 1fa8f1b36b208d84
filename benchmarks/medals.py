"""What open exercises are worth: the outcomes of the plain way, of the known ways and of the model answer.

    python -m benchmarks.medals [SEEDS]

The thresholds in `compresslab/classroom/exercises/opens` come from this: bronze lies above the plain way,
silver above the better known ways, gold below the worst of the model answer's. It is run by hand when an
exercise or its model answer changes.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import EXERCISES
from compresslab.report import Table


def outcomes(exercise: Exercise, function: Callable, seeds: int) -> tuple[list[float | str], float]:
    """The mean outcome of each seed's cases, or why there is none, and the seconds that a seed took."""
    found, start = [], time.perf_counter()
    for seed in range(seeds):
        cases = exercise.cases(np.random.default_rng(seed))
        values = [exercise.medals.measure(case, function(*case.args)) for case in cases]
        wrong = [v for v in values if isinstance(v, str)]
        found.append(wrong[0] if wrong else float(np.mean(values)))
    return found, (time.perf_counter() - start) / seeds


def table(seeds: int) -> Table:
    """A row for every way of every open exercise."""
    rows = []
    for exercise in (e for e in EXERCISES.values() if e.medals):
        ways = {"model answer": exercise.reference, "plain": exercise.medals.plain}
        ways |= {m.name: m.wrong for m in exercise.mistakes if m.wrong is not exercise.medals.plain}
        for name, function in ways.items():
            values, seconds = outcomes(exercise, function, seeds)
            if isinstance(values[0], str):
                row = ["against the rules", "", ""]
            else:
                row = [
                    f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}",
                    f"{min(values):.1f}",
                ]
                row.append(exercise.medals.of(min(values))[0] or "none")
            rows.append([exercise.id, name, *row, f"{seconds:.1f}"])
    headings = ["exercise", "way", "outcome", "least", "medal of the least", "seconds"]
    return Table(headings, rows, f"{seeds} seeds")


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
