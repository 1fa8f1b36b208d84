"""What real networks are shown: photographs, sentences and text from packages that are there anyway.

    photographs   crops of three photographs (scikit-learn's two sample images and Matplotlib's portrait),
                  float32 [n, 3, size, size] in -1..1; one half of each for calibration, the other for tests
    sentences     pairs that follow each other in the documentation of Python, as pydoc has it
    text          topics of that documentation, as `data.corpus` divides them

Three photographs are no data set: they have the statistics of photographs, which is what calibration asks
for, and no labels. Where labels matter, take ImageNet or a data set of your own.
"""

import re

import numpy as np
import torch
from matplotlib import cbook
from matplotlib.image import imread
from PIL import Image
from sklearn.datasets import load_sample_images

from compresslab.data import corpus

SMALLEST = 96
"""Pixels of the smallest crop's side, before it is resized."""
SENTENCE_END = re.compile(r"(?<=[.]) (?=[A-Z])")
MARKUP = re.compile(r"[|=<>\[\]{}`*:]")
HALVES = ("calibration", "test")


def photographs(count: int, half: str, size: int = 128, seed: int = 0) -> torch.Tensor:
    """Crops at random places and of random sizes, half of them mirrored.

    Args:
        count: how many.
        half: "calibration" (the left half of each photograph) or "test" (the right one).
        size: height and width of the result.
        seed: of places and sizes.

    Raises:
        ValueError: for a count below 1, a size below 8, or another half.
    """
    if count < 1 or size < 8:
        raise ValueError(f"count must be at least 1 and size at least 8, got {count} and {size}")
    if half not in HALVES:
        raise ValueError(f"half must be {' or '.join(HALVES)}, got {half!r}")
    generator = np.random.default_rng([seed, HALVES.index(half)])
    whole, crops = _whole(), []
    for index in range(count):
        photo = whole[index % len(whole)]
        middle = photo.shape[1] // 2
        photo = photo[:, :middle] if half == "calibration" else photo[:, middle:]
        side = int(generator.integers(SMALLEST, min(photo.shape[:2])))
        top, left = (int(generator.integers(n - side + 1)) for n in photo.shape[:2])
        part = Image.fromarray(photo[top : top + side, left : left + side])
        crop = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
        crops.append(crop[:, ::-1] if generator.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _whole() -> list[np.ndarray]:
    portrait = imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    return [*load_sample_images().images, portrait]


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """`count` sentences of the documentation, and the sentence that follows each; fewer if there are fewer.

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    pairs: dict[str, str] = {}  # topics quote each other: a sentence counts once
    whole = "\n\n".join("\n\n".join(text(part)) for part in corpus.PARTS)
    for paragraph in whole.split("\n\n"):
        first, *rest = SENTENCE_END.split(" ".join(paragraph.split()))
        pair = (first, rest[0] if rest else "")
        if all(40 < len(s) < 160 and not MARKUP.search(s) for s in pair):
            pairs.setdefault(*pair)
    first, second = list(pairs), list(pairs.values())
    order = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [first[i] for i in order], [second[i] for i in order]


def text(part: str) -> list[str]:
    """The topics of one part ("train", "val" or "test") of the documentation.

    Raises:
        ValueError: for another part.
    """
    if part not in corpus.PARTS:
        raise ValueError(f"part must be one of {', '.join(corpus.PARTS)}, got {part!r}")
    return list(corpus.topics(part))
