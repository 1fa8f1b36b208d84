"""All exercises of the course, by id. One file a subject; the labs refer to them by id alone."""

import difflib

from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import (
    binary,
    combine,
    distillation,
    llm,
    low_rank,
    measuring,
    numbers,
    pruning,
    ptq,
    qat,
    slim,
    tickets,
    transformers,
)

SUBJECTS = (
    measuring,
    numbers,
    ptq,
    qat,
    pruning,
    tickets,
    low_rank,
    slim,
    distillation,
    transformers,
    binary,
    llm,
    combine,
)
EXERCISES: dict[str, Exercise] = {e.id: e for subject in SUBJECTS for e in subject.EXERCISES}


def of_grade_id(grade_id: str) -> Exercise | None:
    """The exercise of an answer cell or of its check: nbgrader's ids have a hyphen where ours have a dot."""
    return EXERCISES.get(grade_id.removesuffix("-check").replace("-", ".", 1))


def exercise(id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        ValueError: if there is none, naming the nearest.
    """
    if id not in EXERCISES:
        near = difflib.get_close_matches(str(id), EXERCISES, n=1, cutoff=0.0)
        raise ValueError(f"id must be an exercise of the course, got {id!r}; nearest: {near[0]}")
    return EXERCISES[id]
