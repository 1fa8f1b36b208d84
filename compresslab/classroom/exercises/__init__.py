"""All exercises of the course, by id. The labs refer to them by id alone.

Warm-ups are one file a subject here; what is built whole is in `builds`, open tasks are in `opens`.
"""

import difflib
from types import ModuleType

from compresslab.classroom.course import id_of
from compresslab.classroom.exercise import Exercise
from compresslab.classroom.exercises import (
    binary,
    builds,
    combine,
    distillation,
    llm,
    low_rank,
    measuring,
    numbers,
    opens,
    pruning,
    ptq,
    qat,
    real,
    slim,
    tickets,
    today,
    transformers,
)


def _in_order(*modules: ModuleType) -> tuple[Exercise, ...]:
    return tuple(e for module in modules for e in module.EXERCISES)


LABS: dict[str, tuple[Exercise, ...]] = {
    "00_measure_first": _in_order(measuring, builds.measuring, opens.measuring),
    "01_numbers": _in_order(numbers, builds.numbers, opens.numbers),
    "02_post_training_quantization": _in_order(ptq, builds.ptq, opens.ptq),
    "03_quantization_aware_training": _in_order(qat, builds.qat, opens.qat),
    "04_pruning": _in_order(pruning, builds.pruning, opens.pruning),
    "05_lottery_tickets": _in_order(tickets, builds.tickets, opens.tickets),
    "06_low_rank": _in_order(low_rank, builds.low_rank, opens.low_rank),
    "07_slim_by_design": _in_order(slim, builds.slim, builds.search, opens.slim),
    "08_distillation": _in_order(distillation, builds.distillation, opens.distillation),
    "09_distilling_transformers": _in_order(transformers, builds.transformers, opens.transformers),
    "10_binarization": _in_order(binary, builds.binary, opens.binary),
    "11_llm_weights": _in_order(llm, builds.llm, opens.llm),
    "12_capstone": _in_order(combine, builds.chip, builds.combine, opens.combine),
    "13_real_networks": _in_order(real, builds.real, opens.real),
    "14_clinic": _in_order(builds.clinic, builds.clinic_runs, opens.clinic),
    "15_language_models_today": _in_order(today, builds.today, opens.today),
}
EXERCISES: dict[str, Exercise] = {e.id: e for exercises in LABS.values() for e in exercises}


def of_grade_id(grade_id: str) -> Exercise | None:
    """The exercise of an answer cell or of its check: nbgrader's ids have a hyphen where ours have a dot."""
    return EXERCISES.get(id_of(grade_id))


def exercise(id: str) -> Exercise:
    """The exercise of that id.

    Raises:
        ValueError: if there is none, naming the nearest.
    """
    if id not in EXERCISES:
        near = difflib.get_close_matches(str(id), EXERCISES, n=1, cutoff=0.0)
        raise ValueError(f"id must be an exercise of the course, got {id!r}; nearest: {near[0]}")
    return EXERCISES[id]
