"""The seeds of an experiment, and one variable that shifts them all.

A finding that holds for seeds 0, 1 and 2 may be luck. With COMPRESSLAB_SEED=n every seed of a lab, of the
data and of the training alike, moves to another place: seeds(3) is (0, 1, 2) by default and (1000 n, 1000
n + 1, 1000 n + 2) then. `python -m benchmarks.claims` replicates the course's findings that way.

What is left out: library functions do not look at the variable. A lab asks for its seeds once and hands
them on.
"""

import os

from compresslab.shorter import most_seeds

VARIABLE = "COMPRESSLAB_SEED"
STEP = 1000
"""Seeds of one shift: an experiment that adds to its seeds stays within it."""


def shift() -> int:
    """The number in COMPRESSLAB_SEED, 0 if it is not set.

    Raises:
        ValueError: if it is not a whole number from 0 to 1,000,000.
    """
    text = os.environ.get(VARIABLE) or "0"
    if not (text.isascii() and text.isdigit()) or int(text) > 1_000_000:
        raise ValueError(f"{VARIABLE} must be a whole number from 0 to 1,000,000, got {text!r}")
    return int(text)


def seeds(count: int) -> tuple[int, ...]:
    """`count` neighbouring seeds, from where COMPRESSLAB_SEED says; COMPRESSLAB_SEEDS may make them fewer.

    Raises:
        ValueError: for a count outside 1..1000, and as `shift` and `shorter.most_seeds` do.
    """
    if not 1 <= count <= STEP:
        raise ValueError(f"count must be 1 to {STEP}, got {count}")
    first = STEP * shift()
    return tuple(range(first, first + min(count, most_seeds() or count)))
