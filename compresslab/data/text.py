"""What a text data set is to the rest of the course: three sets of token sequences and labels, in memory.

A sequence is a row of token numbers of one length for all; 0 stands for "nothing here" (padding). Which words
the numbers mean is the vocabulary's business, whose first entries are the special ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from compresslab.data.split import Labelled

PADDING, UNKNOWN, MASK = "<nothing>", "<unknown>", "<mask>"
SPECIAL = (PADDING, UNKNOWN, MASK)


class Sequences(Labelled):
    """Tokens `x`, int64 [n, length], and the labels of the sequences."""

    def _check_inputs(self) -> None:
        if self.x.dtype != torch.int64 or self.x.ndim != 2:
            raise ValueError(f"x must be int64 [n, length], got {self.x.dtype} {self.x.ndim}-d")


@dataclass(frozen=True)
class TextSplit:
    """A text data set: `train`, `val` and `test`; class names; the words of the token numbers."""

    name: str
    train: Sequences
    val: Sequences
    test: Sequences
    classes: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return self.train.x.shape[1]

    def __repr__(self) -> str:
        """One line: name, sizes, length, vocabulary."""
        sizes = f"train {len(self.train):,}, val {len(self.val):,}, test {len(self.test):,}"
        return (
            f"{self.name}: {sizes} sequences of {self.length} tokens, "
            f"{len(self.words)} words, {len(self.classes)} classes"
        )

    def text(self, tokens: torch.Tensor) -> str:
        """A sequence in words, without padding."""
        return " ".join(self.words[t] for t in tokens.tolist() if t)


def vocabulary(
    counts: Iterable[tuple[str, int]], size: int, first: Sequence[str] = ()
) -> tuple[str, ...]:
    """The special words, those in `first`, then the most frequent others (of equals, by alphabet).

    Args:
        counts: word and how often it occurs.
        size: words in all.
        first: words that must be there.

    Raises:
        ValueError: if not even the special words and those in `first` fit.
    """
    fixed = [*SPECIAL, *first]
    if size < len(fixed):
        raise ValueError(f"size must be at least {len(fixed)} for the fixed words, got {size}")
    known = set(fixed)
    order = sorted((-count, word) for word, count in counts if word not in known)
    return tuple([*fixed, *(word for _, word in order)][:size])
