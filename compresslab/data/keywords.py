"""Which Python keyword was here? A text task whose data is on every machine: Python's standard library.

    ... self . <name> = <name> <line> 2 [?] <name> in self . <name> : <line> 3 ...     ->  for

A window of BEFORE tokens, a mask, AFTER tokens; the class is the keyword behind the mask, one of 24 (None,
True, False and pass are left in the text). Tokens come from a regular expression, not from `tokenize`,
so that all Python versions cut alike: names that are in the vocabulary stand for themselves, others are
<name>; numbers and strings are <number> and <string>; comments are left out; a new line is <line> with its
depth of indentation. Whole files are kept for validation and for test, chosen by a hash of their name.

Left out: quotes nested in f-strings, new in Python 3.12, which are cut wrongly; windows that stand in several
files because generated modules resemble each other.

The library differs a little from one Python to the next, and so do the examples. The vocabulary does not: it
lies beside this file, made by `python -m compresslab.data.keywords` from Python 3.11's.
"""

import re
import sys
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from compresslab.data.text import MASK, SPECIAL, UNKNOWN, Sequences, TextSplit, vocabulary

CLASSES = (
    *(
        "and",
        "as",
        "assert",
        "class",
        "continue",
        "def",
        "del",
        "elif",
        "else",
        "except",
        "for",
        "from",
    ),
    *("if", "import", "in", "is", "lambda", "not", "or", "raise", "return", "try", "while", "with"),
)
BEFORE, AFTER = 12, 11
WORDS = 1000
DEEPEST = 5
LINES = tuple(f"<line {depth}>" for depth in range(DEEPEST + 1))
LEFT_OUT = (
    "test",
    "tests",
    "idlelib",
    "site-packages",
    "lib2to3",
    "turtledemo",
    "__pycache__",
    "pydoc_data",
)
PER_FILE = 1000
PATTERN = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<comment>\#[^\n]*)
    |(?P<line>\n[ \t]*)
    |(?P<number>0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?[jJ]?)
    |(?P<name>[^\W\d]\w*)
    |(?P<sign>\*\*|//|->|:=|[=!<>]=|[^\w\s])""",
    re.VERBOSE | re.DOTALL,
)
VOCABULARY = Path(__file__).with_name("keywords.txt")


def tokens_of(source: str) -> list[str]:
    """The tokens of a piece of Python; several new lines in a row are one."""
    found: list[str] = []
    for match in PATTERN.finditer(source):
        kind, text = match.lastgroup, match.group()
        if kind == "line":
            depth = min(len(text.expandtabs(4)[1:]) // 4, DEEPEST)
            if found and found[-1].startswith("<line"):
                found.pop()
            found.append(LINES[depth])
        elif kind in ("string", "number"):
            found.append(f"<{kind}>")
        elif kind != "comment":
            found.append(text)
    return found


def words() -> tuple[str, ...]:
    """The vocabulary that belongs to the course's checkpoints."""
    return tuple(VOCABULARY.read_text(encoding="utf-8").splitlines())


def files() -> list[Path]:
    """The standard library's own source, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not set(path.relative_to(root).parts[:-1]) & set(LEFT_OUT)
        and not path.name.startswith("_sysconfigdata")
    ]


def part_of(path: Path) -> str:
    """Where a file's examples go: "train" (8 of 10), "val" or "test"."""
    digit = zlib.crc32(path.name.encode()) % 10
    return {0: "val", 1: "test"}.get(digit, "train")


def load(train_size: int = 10_000, seed: int = 0) -> TextSplit:
    """The task: `train_size` windows, 2,000 to choose by and 4,000 to test.

    Args:
        train_size: training windows; fewer if the library does not have so many.
        seed: of the choice of windows.

    Raises:
        ValueError: for a train_size below 1.
    """
    if train_size < 1:
        raise ValueError(f"train_size must be at least 1, got {train_size}")
    wanted = {"train": train_size, "val": 2000, "test": 4000}
    listed = words()
    numbers = {word: i for i, word in enumerate(listed)}
    parts = {}
    for part, count in wanted.items():
        generator = np.random.default_rng([seed, list(wanted).index(part)])
        parts[part] = _sequences(part, count, numbers, generator)
    return TextSplit("keywords", **parts, classes=CLASSES, words=listed)


def _sequences(
    part: str, count: int, numbers: dict[str, int], generator: np.random.Generator
) -> Sequences:
    """`count` windows of the part's files: files in random order, at most PER_FILE of each."""
    paths = [path for path in files() if part_of(path) == part]
    if not paths:
        raise FileNotFoundError("the standard library's source is not installed with this Python")
    found: list[np.ndarray] = []
    total = 0
    for index in generator.permutation(len(paths)):
        rows = _windows(_encoded(paths[index], numbers))
        if len(rows):
            chosen = generator.permutation(len(rows))[:PER_FILE]
            found.append(rows[chosen])
            total += len(chosen)
        # More files than needed, so that no few of them make up the whole part.
        if total > 2 * count:
            break
    rows = np.concatenate(found)
    rows = rows[generator.permutation(len(rows))[:count]]
    return Sequences(torch.from_numpy(rows[:, 1:].copy()), torch.from_numpy(rows[:, 0].copy()))


def _encoded(path: Path, numbers: dict[str, int]) -> np.ndarray:
    source = path.read_text(encoding="utf-8", errors="replace")
    name, unknown = numbers["<name>"], numbers[UNKNOWN]
    return np.array(
        [
            numbers.get(token, name if token.isidentifier() else unknown)
            for token in tokens_of(source)
        ],
        dtype=np.int64,
    )


def _windows(tokens: np.ndarray) -> np.ndarray:
    """Label and masked window of every keyword, int64 [n, 1 + length]."""
    length = BEFORE + 1 + AFTER
    # The classes follow the special words in the vocabulary, so a class is its token minus the first's.
    first = len(SPECIAL)
    padded = np.concatenate([np.zeros(BEFORE, np.int64), tokens, np.zeros(AFTER, np.int64)])
    places = np.flatnonzero((tokens >= first) & (tokens < first + len(CLASSES)))
    if len(places) == 0:
        return np.zeros((0, 1 + length), np.int64)
    rows = np.lib.stride_tricks.sliding_window_view(padded, length)[places].copy()
    labels = rows[:, BEFORE] - first
    rows[:, BEFORE] = SPECIAL.index(MASK)
    return np.concatenate([labels[:, None], rows], axis=1)


def _counted(paths: list[Path]) -> Iterator[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(tokens_of(path.read_text(encoding="utf-8", errors="replace")))
    yield from counts.items()


def main() -> None:
    """Write the vocabulary of this Python's library."""
    paths = [path for path in files() if part_of(path) == "train"]
    kinds = ("<name>", "<number>", "<string>", *LINES)
    found = vocabulary(_counted(paths), WORDS, (*CLASSES, *kinds))
    VOCABULARY.write_text("\n".join(found) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} words of {len(paths)} files -> {VOCABULARY.name}\n")


if __name__ == "__main__":
    main()
