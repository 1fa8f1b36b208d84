"""What a learner builds whole, judged in stages: one file a lab, under the lab's subject."""

from compresslab.classroom.exercises.builds import (
    binary,
    chip,
    clinic,
    clinic_runs,
    combine,
    llm,
    low_rank,
    measuring,
    numbers,
    ptq,
    qat,
    real,
    search,
    slim,
    tickets,
    transformers,
)

__all__ = [
    "binary",
    "chip",
    "clinic",
    "clinic_runs",
    "combine",
    "llm",
    "low_rank",
    "measuring",
    "numbers",
    "ptq",
    "qat",
    "real",
    "search",
    "slim",
    "tickets",
    "transformers",
]
