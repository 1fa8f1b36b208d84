"""Experiments that take longer than a lab may: run once over seeds, kept, and shown in the labs.

    from compresslab.longer import show_longer
    show_longer("learning_together")

Each module beside `experiment`, `stored` and `show` is one experiment: the question and its source in the
docstring, one run in `run(seed, size)`, and what was found in `EXPERIMENT`. `compresslab longer NAME` runs
the seeds that are missing and writes their rows beside the code; docs/longer.md has them all.
"""

from compresslab.longer.show import show_longer
from compresslab.longer.stored import experiment_of, names

__all__ = ["experiment_of", "names", "show_longer"]
