"""Glyphs: the letters A-Z (or a-z) in 22 fonts, distorted; five fonts are kept for the test set.

Each image is drawn from one letter, rendered large, by an affine map

    rotation ±15°, shear ±0.2, scale 0.7-1.05, shift ±10 % of the width

on a dim background, one in five with a piece of another letter at the edge (clutter), contrast
0.5-1 and Gaussian noise of 0.1. It is sampled at twice the final size and averaged, so that edges
are smooth. The test set's fonts are never seen in training: what is tested is the letter, not the font.

Deterministic by seed; stored as uint8 in the user cache, so that the second call is a read.
"""

import math
import zipfile
import zlib
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from compresslab.data import files
from compresslab.data.split import Split, examples
from compresslab.writing import write_whole

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ALPHABETS = {"glyphs": LETTERS, "lowercase": LETTERS.lower()}
TEST_FONTS = (
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "STIXGeneralItalic",
    "cmss10",
    "cmb10",
)
TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta"),
    *("cmr10", "cmtt10", "cmti10", "cmmi10"),
)
TRAIN, VAL, TEST = 16_000, 2_000, 4_000
SIZES = (16, 28)
CANVAS = 64
RECIPE = 1
"""Raised whenever the drawing changes, so that an old cache is not taken for a new one."""


def load(size: int, train_size: int, seed: int, alphabet: str = "glyphs") -> Split:
    """Letters of `size` pixels: from the cache, else drawn and cached.

    Args:
        size: 16 or 28.
        train_size: training images.
        seed: of the distortions.
        alphabet: "glyphs" (capitals) or "lowercase".

    Raises:
        ValueError: for another size.
    """
    if size not in SIZES:
        raise ValueError(f"size must be 16 or 28 for glyphs, got {size}")
    letters = ALPHABETS[alphabet]
    path = files.cache_folder() / f"{alphabet}-{RECIPE}-{size}px-{train_size}-seed{seed}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = draw_split(size, train_size, seed, letters)
        _try_to_cache(path, arrays)
    parts = [examples(arrays[f"{p}_x"], arrays[f"{p}_y"]) for p in ("train", "val", "test")]
    return Split(alphabet, *parts, tuple(letters))


def draw_split(
    size: int, train_size: int, seed: int, letters: str = LETTERS
) -> dict[str, np.ndarray]:
    """Images uint8 [n, 1, size, size] and labels uint8 [n] of the three parts."""
    seen, unseen = (
        np.stack([_render(font, letters) for font in fonts]) for fonts in (TRAIN_FONTS, TEST_FONTS)
    )
    plan = {"train": (seen, train_size), "val": (seen, VAL), "test": (unseen, TEST)}
    arrays = {}
    for index, (part, (fonts, count)) in enumerate(plan.items()):
        generator = np.random.default_rng([seed, index])
        arrays[f"{part}_x"], arrays[f"{part}_y"] = draw(fonts, count, size, generator)
    return arrays


def draw(
    fonts: np.ndarray, count: int, size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`count` distorted letters from rendered fonts [fonts, 26, CANVAS, CANVAS]."""
    labels = np.arange(count) % len(LETTERS)
    generator.shuffle(labels)
    letter = _warp(fonts, labels, size, generator, shift=0.1)
    aside = _warp(fonts, generator.integers(0, 26, count), size, generator, shift=0.1, away=True)
    clutter = generator.uniform(0, 0.5, (count, 1, 1)) * (generator.random((count, 1, 1)) < 0.2)
    ink = np.maximum(letter, clutter * aside)
    contrast = generator.uniform(0.5, 1.0, (count, 1, 1))
    base = generator.uniform(0, 1, (count, 1, 1)) * (1 - contrast)
    image = base + contrast * ink + generator.normal(0, 0.1, ink.shape)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels[:, None], labels.astype(np.uint8)


def _render(font: str, alphabet: str) -> np.ndarray:
    """The 26 letters of one font, uint8 [26, CANVAS, CANVAS], each centred on its own box."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    face = ImageFont.truetype(str(path), int(CANVAS * 1.15))
    letters = []
    for letter in alphabet:
        image = Image.new("L", (CANVAS, CANVAS))
        ImageDraw.Draw(image).text((CANVAS / 2, CANVAS / 2), letter, 255, font=face, anchor="mm")
        letters.append(np.asarray(image))
    return np.stack(letters)


def _warp(
    fonts: np.ndarray,
    labels: np.ndarray,
    size: int,
    generator: np.random.Generator,
    shift: float,
    away: bool = False,
) -> np.ndarray:
    """Letters under random affine maps, float [n, size, size] in 0..1; `away` puts them at the edge."""
    count = len(labels)
    angle = np.radians(generator.uniform(-15, 15, count))
    shear = generator.uniform(-0.2, 0.2, count)
    scale = generator.uniform(0.7, 1.05, count)
    move = generator.uniform(-2 * shift, 2 * shift, (count, 2))
    if away:
        direction = generator.uniform(0, 2 * math.pi, count)
        move += 1.5 * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    # The map from output to source coordinates, both running from -1 to 1 over the image.
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    matrix = np.stack([cos, shear * cos - sin, sin, shear * sin + cos], axis=1).reshape(-1, 2, 2)
    offset = -np.einsum("nij,nj->ni", matrix, move)[..., None]
    theta = torch.from_numpy(np.concatenate([matrix, offset], axis=2)).float()
    source = fonts[generator.integers(0, len(fonts), count), labels]
    warped = []
    for start in range(0, count, 1000):
        part = slice(start, start + 1000)
        images = torch.from_numpy(source[part]).float()[:, None] / 255
        grid = F.affine_grid(theta[part], [len(images), 1, 2 * size, 2 * size], align_corners=False)
        sampled = F.grid_sample(images, grid, align_corners=False)
        warped.append(F.avg_pool2d(sampled, 2)[:, 0])
    return torch.cat(warped).numpy()


PARTS = {f"{part}_{kind}" for part in ("train", "val", "test") for kind in "xy"}


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays; None if there are none or the file is damaged (it is then drawn anew)."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            found = dict(stored)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return found if found.keys() >= PARTS else None


def _try_to_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep the arrays for the next run; where nothing can be written, they are drawn every time."""
    try:
        write_whole(path, lambda temporary: np.savez(temporary, **arrays))
    except OSError:
        return
