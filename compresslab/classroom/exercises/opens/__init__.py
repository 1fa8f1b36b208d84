"""Open exercises: one a file, judged by what comes of them. `benchmarks.medals` measures their thresholds."""

from compresslab.classroom.exercises.opens import (
    binary,
    clinic,
    combine,
    distillation,
    llm,
    low_rank,
    measuring,
    numbers,
    pruning,
    ptq,
    qat,
    real,
    slim,
    tickets,
    today,
    transformers,
)

__all__ = [
    "binary",
    "clinic",
    "combine",
    "distillation",
    "llm",
    "low_rank",
    "measuring",
    "numbers",
    "pruning",
    "ptq",
    "qat",
    "real",
    "slim",
    "tickets",
    "today",
    "transformers",
]
