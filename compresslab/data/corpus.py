"""Running text for language models: Python's standard library, its documentation, and Shakespeare.

    corpus           where it is                                  parts
    python           the standard library's source, anywhere      whole files, by a hash of their name
    documentation    pydoc's topics, in the standard library      whole topics, without shared paragraphs
    shakespeare      tinyshakespeare.txt, in COMPRESSLAB_DATA     8, 1 and 1 tenths, in their order

A tokenizer cuts all three alike: byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909),
which starts from the 256 bytes and joins the most frequent neighbour pair, WORDS - 256 times. Any text has
tokens, and tokens give the text back. The library differs a little from one Python to the next, and so do the
tokens; the tokenizer does not: it lies beside this file, made by `python -m compresslab.data.corpus`.

A model predicts each token from those before it, so the labels of a passage are its tokens, one further on.
"""

import importlib
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from compresslab.data import files, keywords

WORDS = 1024
LENGTH = 128
TOKENIZER = Path(__file__).with_name("tokenizer.json")
NAMES = ("python", "documentation", "shakespeare")
PARTS = ("train", "val", "test")
GENERATED = ("encodings",)
SHAKESPEARE = "tinyshakespeare.txt"


@dataclass(frozen=True)
class Passages:
    """Passages of equal length: tokens `x` and the tokens `y` that follow each, both int64 [n, length].

    Raises:
        ValueError: for other dtypes or shapes.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse what is no pair of passages."""
        for name in ("x", "y"):
            tensor = getattr(self, name)
            if tensor.dtype != torch.int64 or tensor.ndim != 2:
                raise ValueError(
                    f"{name} must be int64 [n, length], got {tensor.dtype} {tensor.ndim}-d"
                )
        if self.x.shape != self.y.shape:
            raise ValueError(
                f"y must have x's shape {list(self.x.shape)}, got {list(self.y.shape)}"
            )

    def __len__(self) -> int:
        """How many passages."""
        return len(self.x)

    @property
    def tokens(self) -> int:
        """Tokens to predict."""
        return self.y.numel()

    def first(self, count: int) -> "Passages":
        """The first `count` passages, or all if there are fewer."""
        if count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        return Passages(self.x[:count], self.y[:count])

    def some(self, count: int, seed: int = 0) -> "Passages":
        """`count` passages drawn without replacement, or all of them if there are fewer."""
        if count < 0:
            raise ValueError(f"count must be 0 or more, got {count}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        return Passages(self.x[order], self.y[order])


@cache
def tokenizer() -> Tokenizer:
    """The one that belongs to the course's checkpoint: `.encode(text).ids`, `.decode(ids)`."""
    return Tokenizer.from_file(str(TOKENIZER))


def encode(texts: list[str]) -> torch.Tensor:
    """The tokens of texts, one after another, int64 [tokens]."""
    found = [ids for one in tokenizer().encode_batch(texts) for ids in one.ids]
    return torch.tensor(found, dtype=torch.int64)


def decode(tokens: torch.Tensor) -> str:
    """The text of tokens int64 [n]."""
    return tokenizer().decode(tokens.tolist())


def cut(tokens: torch.Tensor, length: int = LENGTH) -> Passages:
    """Passages side by side, none overlapping; a rest shorter than a passage is left out.

    Raises:
        ValueError: if there is not one passage.
    """
    count = (len(tokens) - 1) // max(length, 1)
    if length < 1 or count < 1:
        raise ValueError(
            f"tokens must hold {length + 1} or more for length {length}, got {len(tokens)}"
        )
    x = tokens[: count * length].view(count, length)
    return Passages(x, tokens[1 : count * length + 1].view(count, length))


def load(
    name: str, part: str = "test", tokens: int | None = None, length: int = LENGTH
) -> Passages:
    """Passages of one part of a corpus.

    Args:
        name: one of NAMES.
        part: "train", "val" or "test".
        tokens: about how many at most; None for all.
        length: tokens of a passage.

    Raises:
        ValueError: for an unknown name or part, or tokens below 1.
        FileNotFoundError: for Shakespeare, where the file is not at hand, with what to do.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens must be 1 or more, or None for all, got {tokens}")
    texts, characters = [], 0
    for text in _texts(name, part):
        texts.append(text)
        characters += len(text)
        # A token of English or of Python is at most four characters long, on average.
        if tokens is not None and characters > 4 * tokens + 4 * length:
            break
    found = encode(texts)
    return cut(found[: None if tokens is None else tokens + 1], length)


def _texts(name: str, part: str) -> Iterator[str]:
    if name == "python":
        for path in _source_files(part):
            yield path.read_text(encoding="utf-8", errors="replace")
    elif name == "documentation":
        yield from topics(part)
    else:
        yield _shakespeare(part)


def topics(part: str) -> Iterator[str]:
    """The documentation's topics of one part, as text.

    Topics quote each other, so what training has is taken out of the other parts.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    parts = {name: _part_of(name) for name in sorted(topics)}
    known = {
        paragraph.strip()
        for name, own in parts.items()
        for paragraph in topics[name].split("\n\n")
        if PARTS.index(own) < PARTS.index(part)
    }
    for name, own in parts.items():
        if own == part:
            kept = [p for p in topics[name].split("\n\n") if p.strip() not in known]
            yield "\n\n".join(kept)


def _source_files(part: str) -> list[Path]:
    """The part's files in an order that is the same everywhere and has nothing to do with their names."""
    found = [
        path
        for path in keywords.files()
        if not set(path.parts) & set(GENERATED) and keywords.part_of(path) == part
    ]
    return sorted(found, key=lambda path: zlib.crc32(b"order" + path.name.encode()))


def _part_of(name: str) -> str:
    return {0: "val", 1: "test"}.get(zlib.crc32(name.encode()) % 10, "train")


def _shakespeare(part: str) -> str:
    folder = files.find("text", [SHAKESPEARE])
    if folder is None:
        raise FileNotFoundError(
            f"{SHAKESPEARE} is not at hand: put it into a folder 'text' and name the folder above it "
            "in COMPRESSLAB_DATA"
        )
    text = (folder / SHAKESPEARE).read_text(encoding="utf-8")
    first, last = {"train": (0, 8), "val": (8, 9), "test": (9, 10)}[part]
    return text[len(text) * first // 10 : len(text) * last // 10]


def main() -> None:
    """Learn the pairs from this Python's library and write the tokenizer."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [*_texts("python", "train"), *_texts("documentation", "train")]
    made.train_from_iterator(texts, trainer)
    made.save(str(TOKENIZER), pretty=False)
    sys.stdout.write(f"{made.get_vocab_size()} tokens of {len(texts)} texts -> {TOKENIZER.name}\n")


if __name__ == "__main__":
    main()
