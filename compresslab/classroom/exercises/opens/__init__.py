"""Open exercises: one a file, judged by what comes of them. `benchmarks.medals` measures their thresholds."""

from compresslab.classroom.exercises.opens import distillation, low_rank, pruning, ptq, real

__all__ = ["distillation", "low_rank", "pruning", "ptq", "real"]
