"""GGUF, the file of llama.cpp: metadata and tensors in blocks of few bits, read as floats.

    file     "GGUF", version 2 or 3, two counts | metadata | tensors' names, shapes, types, places | data
    block    type     weights   bytes   w =
             Q4_0        32      18     d (q - 8)                        d, m float16; q of 4, 5, 6 or 8 bits
             Q4_1        32      20     d q + m
             Q5_0        32      22     d (q - 16)
             Q5_1        32      24     d q + m
             Q8_0        32      34     d q                              q signed
             Q4_K       256     144     d s q - m t                      s, t of 6 bits for 32 weights each
             Q6_K       256     210     d s (q - 32)                     s of 8 bits for 16 weights each
             F32, F16, BF16              as they are

The first half of a block's weights are the low nibbles, the second half the high ones. Shapes stand in the
file with the fastest axis first, and are turned here as torch has them. Numbers come back exactly as the
format means them (float32 products of its factors). Left out: Q2_K, Q3_K, Q5_K, Q8_K and the IQ types, which
are refused by name, and files in big-endian order.

Format: ggml's documentation of GGUF (docs/gguf.md in ggml-org/ggml).
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
SCALARS = {
    **dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"))),
    **dict(enumerate(("<Q", "<q", "<d"), 10)),
}
TEXT, ARRAY = 8, 9
MOST_DIMENSIONS, MOST_NESTED = 4, 4
OTHERS = {
    **dict(enumerate(("Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 9)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S"), 16)),
    23: "IQ4_XS",
}


class GgufError(ValueError):
    """A file that is no GGUF, is not whole, or has a type that is not read."""


# ---- blocks --------------------------------------------------------------------------------------
def _halves(blocks: np.ndarray) -> np.ndarray:
    """Bytes [n, k] as codes [n, 2k]: all low nibbles, then all high ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=-1)


def _float16(blocks: np.ndarray, start: int) -> np.ndarray:
    """A float16 number of each block, [n, 1] float32."""
    two = np.ascontiguousarray(blocks[:, start : start + 2])
    return two.view(np.float16).astype(np.float32)


def _q4_0(b: np.ndarray) -> np.ndarray:
    return _float16(b, 0) * (_halves(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: np.ndarray) -> np.ndarray:
    return _float16(b, 0) * _halves(b[:, 4:]) + _float16(b, 2)


def _five(b: np.ndarray, start: int) -> np.ndarray:
    """Codes of five bits: the fifth bits of 32 weights in four bytes, then nibbles."""
    fifth = np.unpackbits(b[:, start : start + 4], axis=-1, bitorder="little")
    return (_halves(b[:, start + 4 :]) | fifth << 4).astype(np.float32)


def _q5_0(b: np.ndarray) -> np.ndarray:
    return _float16(b, 0) * (_five(b, 2) - 16)


def _q5_1(b: np.ndarray) -> np.ndarray:
    return _float16(b, 0) * _five(b, 4) + _float16(b, 2)


def _q8_0(b: np.ndarray) -> np.ndarray:
    return _float16(b, 0) * b[:, 2:].view(np.int8)


def _q4_k(b: np.ndarray) -> np.ndarray:
    """Scales s and t of eight parts: four as six low bits, four put together from two bytes."""
    first, second, third = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    s = np.concatenate([first & 63, third & 15 | first >> 6 << 4], axis=1)
    t = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], axis=1)
    codes = _halves(b[:, 16:].reshape(len(b), 4, 32)).reshape(len(b), 8, 32)
    scaled = (_float16(b, 0) * s)[:, :, None] * codes
    return (scaled - (_float16(b, 2) * t)[:, :, None]).reshape(len(b), 256)


def _q6_k(b: np.ndarray) -> np.ndarray:
    low = _halves(b[:, :128].reshape(len(b), 2, 64)).reshape(len(b), 2, 4, 32)
    high = b[:, 128:192].reshape(len(b), 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes = (low | (high & 3) << 4).reshape(len(b), 16, 16).astype(np.float32) - 32
    s = np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32)
    return ((_float16(b, 208) * s)[:, :, None] * codes).reshape(len(b), 256)


def _bfloat16(b: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(b).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Kind:
    """A type of tensors: its name, the weights and bytes of a block, and what a block means."""

    name: str
    weights: int
    bytes: int
    read: Callable[[np.ndarray], np.ndarray]


KINDS = {
    0: Kind("F32", 1, 4, lambda b: np.ascontiguousarray(b).view(np.float32)),
    1: Kind("F16", 1, 2, lambda b: _float16(b, 0)),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    12: Kind("Q4_K", 256, 144, _q4_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    30: Kind("BF16", 1, 2, _bfloat16),
}


# ---- the file ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its shape as torch has it, its type, and where its bytes begin."""

    shape: tuple[int, ...]
    kind: Kind
    start: int

    @property
    def bytes(self) -> int:
        """That it takes in the file."""
        return int(np.prod(self.shape, dtype=object)) // self.kind.weights * self.kind.bytes


@dataclass(frozen=True)
class Gguf:
    """An opened file.

    Attributes:
        metadata: by key, such as "general.architecture"; arrays are lists.
        tensors: what there is, by name.
    """

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, Entry]

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32 in its shape.

        Raises:
            KeyError: if there is none of this name.
        """
        entry = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(entry.start)
            blocks = np.frombuffer(bytearray(file.read(entry.bytes)), np.uint8)
        found = entry.kind.read(blocks.reshape(-1, entry.kind.bytes))
        return np.ascontiguousarray(found, np.float32).reshape(entry.shape)


def read_gguf(path: Path) -> Gguf:
    """Open a file: its metadata, and where its tensors lie; the tensors are read when asked for.

    Raises:
        FileNotFoundError: if there is no such file.
        GgufError: if it is no GGUF of version 2 or 3, is cut off, or holds a type that is not read here.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    size = path.stat().st_size
    if size < 24:
        raise GgufError(f"{path} is no GGUF file: it has {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            metadata, tensors = _Reader(data).whole()
        except (struct.error, UnicodeDecodeError, IndexError, OverflowError) as error:
            raise GgufError(f"{path} is no whole GGUF file: {error}") from error
        except GgufError as error:
            raise GgufError(f"{path}: {error}") from error
    return Gguf(path, metadata, tensors)


class _Reader:
    """The head of a file, from front to back; every length is held against the bytes that are left."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, 0

    def whole(self) -> tuple[dict[str, object], dict[str, Entry]]:
        """Metadata and tensors."""
        if self.take(4) != MAGIC:
            raise GgufError("it does not begin with GGUF")
        version = self.number("<I")
        if version not in VERSIONS:
            raise GgufError(f"version must be 2 or 3, found {version}")
        count, entries = self.number("<Q"), self.number("<Q")
        metadata = {}
        for _ in range(self.possible(entries, 13)):
            name = self.text()
            metadata[name] = self.value(self.number("<I"), 0)
        found = [self.tensor() for _ in range(self.possible(count, 24))]
        return metadata, self.placed(found, metadata.get("general.alignment", ALIGNMENT))

    def placed(self, found: list, alignment: object) -> dict[str, Entry]:
        """Tensors with the places of their bytes, which must lie inside of the file."""
        if type(alignment) is not int or alignment < 1:
            raise GgufError(f"general.alignment must be a positive integer, found {alignment!r}")
        start = -(-self.place // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in found:
            entry = Entry(shape, kind, start + offset)
            if name in tensors:
                raise GgufError(f"tensor {name!r} stands there twice")
            if entry.start + entry.bytes > len(self.data):
                raise GgufError(f"tensor {name!r} ends behind the file's end")
            tensors[name] = entry
        return tensors

    def tensor(self) -> tuple[str, tuple[int, ...], Kind, int]:
        """Name, shape, type and offset."""
        name, dimensions = self.text(), self.number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise GgufError(f"tensor {name!r} must have at most 4 axes, found {dimensions}")
        shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
        code, offset = self.number("<I"), self.number("<Q")
        if code not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            raise GgufError(
                f"tensor {name!r} has type {OTHERS.get(code, code)}, which is not read here; known are "
                f"{known}"
            )
        kind = KINDS[code]
        if (shape[-1] if shape else 1) % kind.weights:
            raise GgufError(f"tensor {name!r}: {shape[-1]} is no multiple of {kind.weights}")
        return name, shape, kind, offset

    def value(self, kind: int, depth: int) -> object:
        """A value of the metadata."""
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            of, count = self.number("<I"), self.number("<Q")
            if depth == MOST_NESTED:
                raise GgufError("arrays in the metadata are nested too deeply")
            least = struct.calcsize(SCALARS[of]) if of in SCALARS else 8
            return [self.value(of, depth + 1) for _ in range(self.possible(count, least))]
        if kind not in SCALARS:
            raise GgufError(f"metadata has a value of the unknown type {kind}")
        return self.number(SCALARS[kind])

    def possible(self, count: int, bytes_each: int) -> int:
        """A count, if so many things can still follow."""
        if count * bytes_each > len(self.data) - self.place:
            raise GgufError(f"it promises {count} entries that its bytes cannot hold")
        return count

    def text(self) -> str:
        """A length and so many bytes of UTF-8."""
        return self.take(self.number("<Q")).decode("utf-8")

    def number(self, form: str) -> int | float | bool:
        """One number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > len(self.data) - self.place:
            raise GgufError("it ends in the middle of its head")
        self.place += count
        return self.data[self.place - count : self.place]
