"""Plain values as bytes, without pickle: what goes into the sandbox, and what comes out of it.

    frame    [length: 8 bytes, little-endian] [that many bytes]
    value    [length of the tree: 8 bytes] [tree: JSON] [arrays: .npy, one after another]

The tree says what each value is: None, True, an integer, a float (as hex, so that NaN and -0.0 survive),
text, a tuple or list of values, a NumPy scalar, an array or a tensor (by its place among the arrays).
Types are exact: a subclass that answers every comparison with yes travels as its name alone, and comes
out as a `Foreign`.

Whoever sends may be hostile. `unpack` believes no length and no shape: an array's header is read first,
and its bytes must be there, all of them, before anything is allocated.
"""

import ast
import io
import json
import math
from typing import BinaryIO

import numpy as np
import torch

LARGEST = 64 * 2**20
LARGEST_TREE = 2 * 2**20
DEEPEST, MOST = 8, 10_000
HEADER = 8
TENSORS = {str(t): t for t in (torch.bfloat16, torch.float16)}


class ProtocolError(ValueError):
    """Bytes that are no value; says what is wrong with them."""


class Foreign:
    """In the place of a value that does not travel: an object of a class of that name, and nothing else."""

    def __new__(cls, name: str) -> "Foreign":
        """Args: the type's name."""
        plain = "".join(c for c in name[:80] if c.isprintable()) or "object"
        return super().__new__(type(plain, (cls,), {}))

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """As a learner is shown it."""
        return f"<{self.name}>"


# ---- frames --------------------------------------------------------------------------------------
def write_frame(stream: BinaryIO, content: bytes) -> None:
    """Write one frame."""
    stream.write(len(content).to_bytes(HEADER, "little") + content)
    stream.flush()


def read_frame(stream: BinaryIO, largest: int = LARGEST) -> bytes | None:
    """Read one frame; None where the stream ends before it is whole.

    Raises:
        ProtocolError: if it says that it is longer than `largest`.
    """
    length = _read_exactly(stream, HEADER)
    if length is None:
        return None
    size = int.from_bytes(length, "little")
    if size > largest:
        raise ProtocolError(f"a frame of {size} bytes, allowed are {largest}")
    return _read_exactly(stream, size)


def _read_exactly(stream: BinaryIO, count: int) -> bytes | None:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# ---- values --------------------------------------------------------------------------------------
def pack(value: object) -> bytes:
    """A value as bytes.

    Raises:
        ProtocolError: if it is deeper, or has more parts, than anything that an exercise returns.
    """
    arrays: list[bytes] = []
    tree = json.dumps(_describe(value, arrays, 0)).encode()
    return len(tree).to_bytes(HEADER, "little") + tree + b"".join(arrays)


def _describe(value: object, arrays: list[bytes], depth: int) -> list:
    if depth > DEEPEST:
        raise ProtocolError(f"a value nested deeper than {DEEPEST}")
    kind = type(value)
    if value is None or kind in (bool, str):
        return ["plain", value]
    if kind is int:
        return ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind in (tuple, list):
        if len(value) > MOST:
            raise ProtocolError(f"{len(value)} values in one, allowed are {MOST}")
        return [kind.__name__, [_describe(v, arrays, depth + 1) for v in value]]
    if kind is torch.Tensor and value.layout is torch.strided and value.device.type == "cpu":
        return _tensor(value, arrays)
    if isinstance(value, np.generic) and kind.__module__ == "numpy" and value.dtype.kind in "biufc":
        arrays.append(_npy(np.asarray(value)))
        return ["scalar", len(arrays[-1])]
    if kind is np.ndarray and value.dtype.kind in "biufc":
        arrays.append(_npy(value))
        return ["array", len(arrays[-1])]
    return ["foreign", kind.__name__[:60]]


def _tensor(value: torch.Tensor, arrays: list[bytes]) -> list:
    value = value.detach().resolve_conj().resolve_neg()
    name = str(value.dtype)
    if name in TENSORS:
        value = value.view(torch.int16)
    try:
        arrays.append(_npy(value.numpy()))
    except (TypeError, RuntimeError):
        return ["foreign", "Tensor"]
    return ["tensor", len(arrays[-1]), name]


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    return stream.getvalue()


def unpack(content: bytes) -> object:
    """The value again.

    Raises:
        ProtocolError: if the bytes are no value.
    """
    size = int.from_bytes(content[:HEADER], "little")
    if len(content) < HEADER or size > min(len(content) - HEADER, LARGEST_TREE):
        raise ProtocolError(f"a tree of {size} in {len(content)} bytes")
    try:
        tree = json.loads(content[HEADER : HEADER + size])
        arrays = _Arrays(content, HEADER + size)
        value = _build(tree, arrays, 0)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        RecursionError,
        OverflowError,
        RuntimeError,
    ) as error:
        raise ProtocolError(f"no value: {error}") from error
    if arrays.place != len(content):
        raise ProtocolError("bytes behind the last array")
    return value


class _Arrays:
    """Takes one array after another off the bytes."""

    def __init__(self, content: bytes, place: int) -> None:
        self.content, self.place, self.parts = content, place, 0

    def count(self) -> None:
        self.parts += 1
        if self.parts > MOST:
            raise ProtocolError(f"more than {MOST} values")

    def take(self, size: object) -> np.ndarray:
        if type(size) is not int or not 0 < size <= len(self.content) - self.place:
            raise ProtocolError(f"an array of {size} bytes where fewer are left")
        content = self.content[self.place : self.place + size]
        self.place += size
        shape, dtype, data = _header(content)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ProtocolError(f"an array of shape {shape} in {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape).copy()


def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype, bytes]:
    """Shape, type and data of an .npy file, version 1. NumPy's own reader also takes what Python 2 wrote."""
    start = 10
    end = start + int.from_bytes(content[8:start], "little")
    if content[:8] != b"\x93NUMPY\x01\x00" or not start < end <= len(content) or end > 2000:
        raise ProtocolError("an array without a header")
    try:
        about = ast.literal_eval(content[start:end].decode("latin1").strip())
        descr, shape = about["descr"], about["shape"]
        dtype = np.dtype(descr) if type(descr) is str else None
    except (SyntaxError, MemoryError) as error:
        raise ProtocolError(f"an array without a header: {error}") from error
    good = (
        type(shape) is tuple and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    )
    if (
        not good
        or dtype is None
        or dtype.kind not in "biufc"
        or about["fortran_order"] is not False
    ):
        raise ProtocolError(f"an array of {descr!r} and shape {shape!r}")
    return shape, dtype, content[end:]


def _build(tree: object, arrays: _Arrays, depth: int) -> object:
    arrays.count()
    if type(tree) is not list or len(tree) not in (2, 3) or depth > DEEPEST:
        raise ProtocolError("a tree that describes no value")
    kind, about = tree[0], tree[1]
    if kind == "plain" and (about is None or type(about) in (bool, str)):
        return about
    if kind == "int" and type(about) is str:
        return int(about, 16)
    if kind == "float" and type(about) is str:
        return float.fromhex(about)
    if kind in ("tuple", "list") and type(about) is list:
        values = [_build(part, arrays, depth + 1) for part in about]
        return tuple(values) if kind == "tuple" else values
    if kind == "array":
        return arrays.take(about)
    if kind == "scalar":
        return arrays.take(about)[()]
    if kind == "tensor":
        tensor, name = torch.from_numpy(arrays.take(about)), tree[2]
        halved = tensor.dtype == torch.int16 and type(name) is str and name in TENSORS
        return tensor.view(TENSORS[name]) if halved else tensor
    if kind == "foreign" and type(about) is str:
        return Foreign(about[:60])
    raise ProtocolError(f"an unknown kind of value {str(kind)[:20]!r}")
