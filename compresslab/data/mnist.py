"""MNIST: handwritten digits, 60,000 and 10,000 images of 28x28 (LeCun, Cortes and Burges, 1998).

IDX format: two zero bytes, a type byte (8 = uint8), the number of dimensions, each dimension as a
big-endian 32-bit integer, then the data. The header is checked against the bytes that are there before
anything of its size is allocated.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from compresslab.data import files
from compresslab.data.split import Split, examples, held_out

HOME = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def found() -> Path | None:
    """The folder that holds the files, if they are at hand."""
    return files.find("mnist", list(MD5))


def load(train_size: int | None, seed: int) -> Split:
    """Read the four files, fetching them if they are not at hand."""
    folder = found()
    if folder is None:
        for name, md5 in MD5.items():
            folder = files.fetch(HOME + name, name, "mnist", f"md5:{md5}")
    train, val = held_out(*_pair(folder, "train"), train_size, seed)
    return Split("mnist", train, val, examples(*_pair(folder, "t10k")), tuple("0123456789"))


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise ValueError(
            f"{folder}: expected as many 28x28 {part} images as labels, "
            f"found images {images.shape} and labels {labels.shape}"
        )
    if labels.max(initial=0) > 9:
        raise ValueError(f"{folder}: expected {part} labels 0..9, found {labels.max()}")
    return images[:, None], labels


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """A gzipped IDX file of uint8 with the given number of dimensions.

    Raises:
        ValueError: naming the file, what was expected and what was found.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, found: {error}") from error
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if len(data) < header or data[:4] != magic:
        raise ValueError(f"{path}: expected IDX magic {magic.hex()}, found {data[:4].hex()}")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if math.prod(shape) != len(data) - header:
        raise ValueError(
            f"{path}: expected {math.prod(shape):,} bytes for shape {shape}, "
            f"found {len(data) - header:,}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
