"""CIFAR-10: photographs of ten classes, 32x32 RGB (Krizhevsky, 2009), in the official binary layout.

A record is a label byte and 3 x 32 x 32 bytes, channel by channel; a batch file is 10,000 records. Up to
five training batches; those that are there are read, and `Split.note` says how many of how many.
"""

import tarfile
from pathlib import Path

import numpy as np

from compresslab.data import files
from compresslab.data.split import Split, examples, held_out
from compresslab.writing import write_whole

HOME = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32
BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


def found() -> Path | None:
    """The folder that holds a training batch and the test batch, if they are at hand."""
    return files.find(FOLDER, [BATCHES[0], "test_batch.bin"])


def load(train_size: int | None, seed: int) -> Split:
    """Read the batches that are there, fetching the archive if there are none."""
    folder = found()
    if folder is None:
        folder = _fetch()
    present = [folder / name for name in BATCHES if (folder / name).is_file()]
    batches = [read_batch(path) for path in present]
    images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    train, val = held_out(images, labels, train_size, seed)
    test = examples(*read_batch(folder / "test_batch.bin"))
    note = "" if len(present) == 5 else f"{len(images):,} of 50,000 training images"
    return Split("cifar10", train, val, test, tuple(CLASSES.split()), note)


def _fetch() -> Path:
    archive = "cifar-10-binary.tar.gz"
    folder = files.fetch(HOME, archive, "cifar10", f"md5:{MD5}")
    target = files.cache_folder() / FOLDER
    with tarfile.open(folder / archive) as tar:
        for name in [*BATCHES, "test_batch.bin"]:
            content = tar.extractfile(f"{FOLDER}/{name}").read()
            write_whole(target / name, lambda path, data=content: path.write_bytes(data))
    return target


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 3, 32, 32] and labels [n] of one batch file.

    Raises:
        ValueError: naming the file, what was expected and what was found.
    """
    data = np.fromfile(path, np.uint8)
    if data.size == 0 or data.size % RECORD:
        raise ValueError(
            f"{path}: expected a multiple of {RECORD} bytes, found {data.size:,} bytes"
        )
    records = data.reshape(-1, RECORD)
    if records[:, 0].max() > 9:
        raise ValueError(f"{path}: expected labels 0..9, found {records[:, 0].max()}")
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
