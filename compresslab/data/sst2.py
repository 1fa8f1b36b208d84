"""SST-2: is a sentence from a film review for or against the film? After Socher et al. 2013 (EMNLP).

Three files of lines `sentence TAB label` (0 against, 1 for): 6,920 to train, 872 to choose by, 1,821 to test
in the split of whole sentences. Words are split at blanks; the vocabulary is that of the training sentences.

Not fetched: the files' terms are for research, so whoever has them names their folder in COMPRESSLAB_DATA.
"""

from collections import Counter
from pathlib import Path

import torch

from compresslab.data import files
from compresslab.data.text import UNKNOWN, Sequences, TextSplit, vocabulary

FILES = {"train": "sst2-train.tsv", "val": "sst2-dev.tsv", "test": "sst2-test.tsv"}
LENGTH = 40
WORDS = 5000


def load(train_size: int | None = None) -> TextSplit:
    """The sentences, cut or padded to LENGTH tokens.

    Args:
        train_size: at most so many training sentences; if None, all.

    Raises:
        ValueError: for a train_size below 1, or a line that is no sentence with a label (named).
        FileNotFoundError: if the files are not at hand.
    """
    if train_size is not None and train_size < 1:
        raise ValueError(f"train_size must be at least 1, got {train_size}")
    folder = files.find("text", list(FILES.values()))
    if folder is None:
        raise FileNotFoundError(
            f"{', '.join(FILES.values())} must lie in COMPRESSLAB_DATA or its sub-folder 'text'"
        )
    read = {part: _lines(folder / name) for part, name in FILES.items()}
    read["train"] = read["train"][:train_size]
    counts = Counter(word for sentence, _ in read["train"] for word in sentence)
    words = vocabulary(counts.items(), WORDS)
    numbers = {word: i for i, word in enumerate(words)}
    parts = {part: _sequences(lines, numbers) for part, lines in read.items()}
    return TextSplit("sst2", **parts, classes=("against", "for"), words=words)


def _lines(path: Path) -> list[tuple[list[str], int]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        sentence, _, label = line.rpartition("\t")
        if label not in ("0", "1") or not sentence.strip():
            raise ValueError(
                f"{path}, line {number}: expected a sentence, a tab, and 0 or 1; found {line[:60]!r}"
            )
        found.append((sentence.split(), int(label)))
    if not found:
        raise ValueError(f"{path}: expected sentences, found none")
    return found


def _sequences(lines: list[tuple[list[str], int]], numbers: dict[str, int]) -> Sequences:
    unknown = numbers[UNKNOWN]
    x = torch.zeros(len(lines), LENGTH, dtype=torch.int64)
    for row, (sentence, _) in zip(x, lines, strict=True):
        tokens = [numbers.get(word, unknown) for word in sentence[:LENGTH]]
        row[: len(tokens)] = torch.tensor(tokens)
    return Sequences(x, torch.tensor([label for _, label in lines]))
