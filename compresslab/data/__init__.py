"""Data sets of the course: `load(name)` gives images and labels held in memory.

name      what                                              needs
glyphs    the letters A-Z in 22 fonts, distorted; default   nothing, generated in seconds
lowercase the letters a-z, drawn alike, to adapt to         nothing, generated in seconds
digits    scikit-learn's 8x8 handwritten digits             nothing
mnist     LeCun's handwritten digits, 28x28                 four files or the network
cifar10   Krizhevsky's small photographs, 32x32, RGB        batch files or the network
"""

import os

import torch

from compresslab.data import cifar10, digits, glyphs, mnist
from compresslab.data.split import Examples, Features, Labelled, Split, resized
from compresslab.data.text import Sequences, TextSplit

SOURCES = {
    "glyphs": glyphs,
    "lowercase": glyphs,
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
}

DEFAULT = "glyphs"

__all__ = [
    "DEFAULT",
    "SOURCES",
    "Examples",
    "Features",
    "Labelled",
    "Sequences",
    "Split",
    "TextSplit",
    "chosen",
    "labelled",
    "load",
]


def labelled(x: torch.Tensor, y: torch.Tensor) -> Labelled:
    """Inputs and labels as what they are: images, tokens, or other numbers.

    Raises:
        ValueError: for inputs that are none of these, or labels of another shape.
    """
    if not isinstance(x, torch.Tensor):
        return Features(x, y)  # which says what it must be
    if x.dtype == torch.int64:
        return Sequences(x, y)
    return Examples(x, y) if x.ndim == 4 else Features(x, y)


def chosen() -> str:
    """The data set that labs run on: COMPRESSLAB_DATASET, else the default."""
    return os.environ.get("COMPRESSLAB_DATASET") or DEFAULT


def load(
    name: str | None = None, size: int | None = None, train_size: int | None = None, seed: int = 0
) -> Split:
    """One data set, split for training, choosing and testing.

    Args:
        name: "glyphs", "lowercase", "digits", "mnist" or "cifar10"; if None, the `chosen` one.
        size: height and width in pixels; other sizes than the source's are area-averaged. Glyphs are
            drawn at 16 or 28. If None: glyphs 16, otherwise the source's own.
        train_size: at most so many training images; if None, all (glyphs: 16,000).
        seed: what the glyphs' distortions and the choice of validation images depend on.

    Returns:
        Split of float32 images [n, channels, size, size] in 0..1 and int64 labels [n].

    Raises:
        ValueError: for an unknown name, size or train_size, or a damaged file (named, with what was
            expected and found).
        FileNotFoundError: if the files are neither at hand nor can be fetched.
    """
    name = name or chosen()
    if name not in SOURCES:
        raise ValueError(f"name must be one of {', '.join(SOURCES)}, got {name!r}")
    if train_size is not None and train_size < 1:
        raise ValueError(f"train_size must be at least 1, got {train_size}")
    if size is not None and not 4 <= size <= 64:
        raise ValueError(f"size must be 4 to 64 pixels, got {size}")
    if name in glyphs.ALPHABETS:
        return glyphs.load(size or 16, train_size or glyphs.TRAIN, seed, name)
    return resized(SOURCES[name].load(train_size, seed), size)
