"""Smaller transformers from larger ones: layers to begin with, and sentences to learn from.

    DistilBERT  (Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 3)     every second layer of the
                teacher is the student's start; then soft targets, labels, and the cosine of last states
                (in the paper while it reads ordinary text, in the course on the task itself)
    TinyBERT    (Jiao et al. 2020, https://arxiv.org/abs/1909.10351, section 3)     a narrower student: states
                and attention scores first, answers next, on many sentences with words replaced

The losses are `distill.Hints` and `distill.Distillation`; here is what else the two need: `inherit` copies
layers, `nearest_words` and `replaced` make sentences.

Left out: TinyBERT's first stage on ordinary text, and its embedding loss; replacing words by what a masked
language model proposes, its way with single-piece words (the nearest vectors of the teacher's own embedding
stand in for both that and GloVe's).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from compresslab.data.text import SPECIAL
from compresslab.models import Encoder


@torch.no_grad()
def inherit(student: Encoder, teacher: Encoder, layers: Sequence[int]) -> Encoder:
    """Copy the teacher's embedding, head, and chosen layers into a student of the same width, in place.

    Args:
        student: as many layers as are chosen.
        teacher: stays as it is.
        layers: numbers of the teacher's layers (from 0), in the student's order; see `distill.layer_map`.

    Raises:
        ValueError: for a number that is no layer, a wrong count, or tensors of different shapes.
    """
    unknown = [i for i in layers if not 0 <= i < len(teacher.layers)]
    if unknown or len(layers) != len(student.layers):
        raise ValueError(
            f"layers must be {len(student.layers)} numbers in 0..{len(teacher.layers) - 1}, "
            f"got {list(layers)}"
        )
    parts = [(student.layers[i], teacher.layers[j]) for i, j in enumerate(layers)]
    parts += [
        (getattr(student, name), getattr(teacher, name)) for name in ("words", "norm", "head")
    ]
    pairs = [(student.positions, teacher.positions)]
    for mine, theirs in parts:
        pairs += zip(mine.parameters(), theirs.parameters(), strict=True)
    for mine, theirs in pairs:
        if mine.shape != theirs.shape:
            raise ValueError(
                f"student must have the teacher's shapes, got {list(mine.shape)} for {list(theirs.shape)}"
            )
    for mine, theirs in pairs:
        mine.copy_(theirs)
    return student


def nearest_words(vectors: torch.Tensor, count: int = 10) -> torch.Tensor:
    """The words whose vectors point most alike, nearest first: [words, width] -> int64 [words, count].

    A word is not its own neighbour, and no special word is anybody's.

    Raises:
        ValueError: if there are not so many other words.
    """
    words = len(vectors)
    if not 1 <= count <= words - len(SPECIAL) - 1:
        raise ValueError(f"count must be 1 to {words - len(SPECIAL) - 1}, got {count}")
    alike = F.normalize(vectors.detach(), dim=1)
    alike = (alike @ alike.T).fill_diagonal_(-2)
    alike[:, : len(SPECIAL)] = -2
    return alike.topk(count, 1).indices


def replaced(
    tokens: torch.Tensor, near: torch.Tensor, share: float, generator: torch.Generator
) -> torch.Tensor:
    """A copy in which each word is replaced with probability `share`, by one of its nearest at random.

    Args:
        tokens: int64 [n, length]; special words (nothing, unknown, mask) stay.
        near: from `nearest_words`.
        share: 0 to 1.
        generator: of all choices.

    Raises:
        ValueError: for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")
    rolls = torch.rand(tokens.shape, generator=generator)
    picks = torch.randint(near.shape[1], tokens.shape, generator=generator)
    return replace_where(tokens, near, rolls, picks, share)


def replace_where(
    tokens: torch.Tensor,
    near: torch.Tensor,
    rolls: torch.Tensor,
    picks: torch.Tensor,
    share: float,
) -> torch.Tensor:
    """The rule of `replaced`, its random numbers given: rolls in 0..1, columns of `near`, as tokens."""
    chosen = (rolls < share) & (tokens >= len(SPECIAL))
    return torch.where(chosen, near[tokens, picks], tokens)
