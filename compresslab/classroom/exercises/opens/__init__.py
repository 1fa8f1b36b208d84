"""Open exercises: one a file, judged by what comes of them. `benchmarks.medals` measures their thresholds."""

from compresslab.classroom.exercises.opens import (
    binary,
    distillation,
    llm,
    low_rank,
    measuring,
    numbers,
    pruning,
    ptq,
    qat,
    real,
    tickets,
)

__all__ = [
    "binary",
    "distillation",
    "llm",
    "low_rank",
    "measuring",
    "numbers",
    "pruning",
    "ptq",
    "qat",
    "real",
    "tickets",
]
