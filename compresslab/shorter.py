"""Two variables that make a lab shorter: a first look in less time, on a slow machine.

    COMPRESSLAB_SEEDS=1     every lab takes its first seed only
    COMPRESSLAB_STEPS=20    every training takes about that many steps at most: its epochs become shorter;
                            accuracy is that of ten examples a step, perplexity of a passage for every five
                            steps, and of a race there is one round

What is printed then are numbers of such a look; findings are stated and not insisted on (see `claims`).
Tests run the labs that nobody has answered so: whether every cell runs does not depend on how long it trains.
"""

import os

SEEDS, STEPS = "COMPRESSLAB_SEEDS", "COMPRESSLAB_STEPS"
MOST = {SEEDS: 1_000, STEPS: 1_000_000}


def most_seeds() -> int | None:
    """How many seeds a lab takes at most; None if nothing is said.

    Raises:
        ValueError: if COMPRESSLAB_SEEDS is not a whole number from 1 to 1,000.
    """
    return _number(SEEDS)


def most_steps() -> int | None:
    """How many steps a training takes at most; None if nothing is said.

    Raises:
        ValueError: if COMPRESSLAB_STEPS is not a whole number from 1 to 1,000,000.
    """
    return _number(STEPS)


def most_examples() -> int | None:
    """On how many examples accuracy is measured at most; None if nothing is said."""
    steps = most_steps()
    return None if steps is None else 10 * steps


def most_passages() -> int | None:
    """On how many passages perplexity is measured at most; None if nothing is said."""
    steps = most_steps()
    return None if steps is None else max(1, steps // 5)


def most_rounds(rounds: int) -> int:
    """How many rounds of a race there are, of those that were asked for."""
    return rounds if most_steps() is None else min(rounds, 1)


def is_shorter() -> bool:
    """Whether one of the two is set."""
    return most_seeds() is not None or most_steps() is not None


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST[variable]:
        raise ValueError(
            f"{variable} must be a whole number from 1 to {MOST[variable]:,}, got {text!r}"
        )
    return int(text)
