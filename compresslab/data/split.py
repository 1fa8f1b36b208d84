"""What a data set is to the rest of the course: three sets of images and labels, in memory."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Labelled:
    """Inputs `x` [n, ...] and labels `y`, int64 [n]; what an input is, a subclass says.

    Raises:
        ValueError: if shapes or dtypes are others.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse inputs and labels that do not belong together."""
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, torch.Tensor):
                way_out = f": torch.from_numpy({name})" if isinstance(value, np.ndarray) else ""
                raise ValueError(f"{name} must be a tensor, got {type(value).__name__}{way_out}")
        self._check_inputs()
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"y must be int64 of shape [{len(self.x)}], got {self.y.dtype} "
                f"of shape {list(self.y.shape)}"
            )

    def _check_inputs(self) -> None:
        raise TypeError(f"{type(self).__name__} does not say what an input is")

    def __len__(self) -> int:
        """How many examples."""
        return len(self.x)

    def first(self, count: int) -> Self:
        """The first `count` examples, or all if there are fewer."""
        if count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        return type(self)(self.x[:count], self.y[:count])


class Examples(Labelled):
    """Images `x`, float32 [n, channels, height, width] in 0..1, and their labels."""

    def _check_inputs(self) -> None:
        if self.x.dtype != torch.float32 or self.x.ndim != 4:
            raise ValueError(
                f"x must be float32 [n, c, h, w], got {self.x.dtype} {self.x.ndim}-d: for numbers that "
                "are no images use Features, for tokens Sequences (compresslab.data)"
            )


class Features(Labelled):
    """Numbers `x`, float32 [n, ...], and their labels: rows of a table, series, signals with channels."""

    def _check_inputs(self) -> None:
        if self.x.dtype != torch.float32 or self.x.ndim < 2:
            raise ValueError(f"x must be float32 [n, ...], got {self.x.dtype} {self.x.ndim}-d")


@dataclass(frozen=True)
class Split:
    """A data set: `train` to fit, `val` to choose by, `test` to report; class names; remarks.

    The parts are Examples, which are images, or Features.
    """

    name: str
    train: Labelled
    val: Labelled
    test: Labelled
    classes: tuple[str, ...]
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input; of an image channels, height and width."""
        return tuple(self.train.x.shape[1:])

    def __repr__(self) -> str:
        """One line: name, sizes, shape."""
        sizes = f"train {len(self.train):,}, val {len(self.val):,}, test {len(self.test):,}"
        kind = "images" if isinstance(self.train, Examples) else "inputs"
        line = f"{self.name}: {sizes} {kind} of {'x'.join(map(str, self.shape))}"
        return f"{line}, {len(self.classes)} classes{'; ' + self.note if self.note else ''}"


def examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Examples from uint8 images [n, channels, h, w] and integer labels [n].

    Raises:
        ValueError: for another dtype.
    """
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"images must be uint8 and labels integers, got {images.dtype} and {labels.dtype}"
        )
    x = torch.tensor(images, dtype=torch.float32) / 255
    return Examples(x, torch.from_numpy(labels.astype(np.int64)))


def held_out(
    images: np.ndarray, labels: np.ndarray, train_size: int | None, seed: int
) -> tuple[Examples, Examples]:
    """Training and validation examples: a tenth, at most 5,000, drawn by seed, is for validation."""
    order = np.random.default_rng(seed).permutation(len(images))
    held = min(5000, len(images) // 10)
    kept = order[held:][:train_size]
    parts = (kept, order[:held])
    train, val = (examples(_in_order(images[part]), labels[part]) for part in parts)
    return train, val


def _in_order(images: np.ndarray) -> np.ndarray:
    """The images with the strides of their shape: those of an axis of length 1 may be anything, and torch's
    `view` looks at them.
    """  # noqa: D205
    return images.reshape(-1).copy().reshape(images.shape)


def resized(split: Split, size: int | None) -> Split:
    """The same split with square images of another size, area-averaged."""
    if size is None or split.shape[1:] == (size, size):
        return split

    def resize(part: Examples) -> Examples:
        return Examples(F.interpolate(part.x, size=(size, size), mode="area"), part.y)

    return replace(split, train=resize(split.train), val=resize(split.val), test=resize(split.test))
