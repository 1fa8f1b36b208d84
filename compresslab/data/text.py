"""What a text data set is to the rest of the course: three sets of token sequences and labels, in memory.

A sequence is a row of token numbers of one length for all; 0 stands for "nothing here" (padding). Which words
the numbers mean is the vocabulary's business, whose first entries are the special ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

PADDING, UNKNOWN, MASK = "<nothing>", "<unknown>", "<mask>"
SPECIAL = (PADDING, UNKNOWN, MASK)


@dataclass(frozen=True)
class Sequences:
    """Tokens `x`, int64 [n, length], and labels `y`, int64 [n].

    Raises:
        ValueError: if shapes or dtypes are others.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse tokens and labels that do not belong together."""
        if self.x.dtype != torch.int64 or self.x.ndim != 2:
            raise ValueError(f"x must be int64 [n, length], got {self.x.dtype} {self.x.ndim}-d")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"y must be int64 of shape [{len(self.x)}], got {self.y.dtype} "
                f"of shape {list(self.y.shape)}"
            )

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.x)

    def first(self, count: int) -> "Sequences":
        """The first `count` sequences."""
        return Sequences(self.x[:count], self.y[:count])


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
