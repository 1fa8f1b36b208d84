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

LABS = {
    "00_measure_first": measuring,
    "01_numbers": numbers,
    "02_post_training_quantization": ptq,
    "03_quantization_aware_training": qat,
    "04_pruning": pruning,
    "05_lottery_tickets": tickets,
    "06_low_rank": low_rank,
    "07_slim_by_design": slim,
    "08_distillation": distillation,
    "09_distilling_transformers": transformers,
    "10_binarization": binary,
    "11_llm_weights": llm,
    "12_capstone": combine,
}
SUBJECTS = tuple(LABS.values())
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
