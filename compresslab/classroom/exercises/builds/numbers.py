"""Lab 01: a tensor as bytes of few bits, and back: a file format of the learner's own."""

from collections.abc import Callable

import numpy as np
import torch

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake
from compresslab.kernels import bitpack
from compresslab.numerics import affine
from compresslab.numerics.grid import IntGrid

SMALL, CLOSE, SHAPES, EDGES = "small", "close", "shapes", "zeros and nothing"
HEADER = 64


def tensor_file(bits: int) -> tuple[Callable, Callable]:
    """The library's parts: write(x float32) -> bytes, read(bytes) -> float32 of the same shape."""

    def write(x: np.ndarray) -> bytes:
        rows = x.reshape(len(x), -1) if x.ndim and x.size else x.reshape(1, -1)
        top = np.abs(rows).max(1, initial=0) / (2 ** (bits - 1) - 1)
        scales = np.where(top > 0, top, 1).astype(np.float32)
        grid = IntGrid(bits)
        params = affine.QParams(
            torch.from_numpy(scales), torch.zeros(len(scales), dtype=torch.int32), grid, axis=0
        )
        codes = affine.quantize(torch.from_numpy(np.ascontiguousarray(rows)), params).codes.numpy()
        packed = bitpack.pack(
            (codes.astype(np.int16) - grid.low).astype(np.uint8).reshape(-1), bits
        )
        header = np.array([x.ndim, *x.shape], "<u4").tobytes()
        return header + scales.astype("<f4").tobytes() + packed.tobytes()

    def read(content: bytes) -> np.ndarray:
        ndim = int(np.frombuffer(content, "<u4", 1)[0])
        shape = tuple(int(n) for n in np.frombuffer(content, "<u4", ndim, 4))
        count = int(np.prod(shape))
        rows = shape[0] if ndim and count else 1
        start = 4 + 4 * ndim
        scales = np.frombuffer(content, "<f4", rows, start)
        packed = np.frombuffer(content, np.uint8, offset=start + 4 * rows)
        codes = bitpack.unpack(packed, bits, count).astype(np.float32) - 2 ** (bits - 1)
        return (codes.reshape(rows, -1) * scales[:, None]).astype(np.float32).reshape(shape)

    return write, read


def at_work(function: Callable) -> Callable:
    """The size of the bytes, and what is read from them by somebody who has seen nothing else.

    While grading, the writer is a process of its own: what it remembers is gone.
    """

    def written(x, bits):
        import os
        import sys

        if "compresslab.classroom.judge" in sys.modules:
            return function(bits)[0](x)
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with os.fdopen(sink, "wb") as file:
                    file.write(function(bits)[0](x))
            finally:
                os._exit(0)
        os.close(sink)
        with os.fdopen(source, "rb") as file:
            content = file.read(1 << 20)
        os.waitpid(child, 0)
        return content

    def run(stage, x, bits):
        content = written(x, bits)
        if not isinstance(content, bytes | bytearray):
            return "none", type(content).__name__
        return "bytes", len(content), function(bits)[1](bytes(content))

    return run


def seen(value: tuple, stage, x, bits) -> str:
    """One sentence about a stage."""
    if value[0] == "none":
        return "write hands back no bytes"
    _, size, back = value
    if not isinstance(back, np.ndarray) or back.dtype != np.float32:
        return "read hands back no float32 array"
    if back.shape != x.shape:
        return "what is read has another shape"
    if not np.isfinite(back).all():
        return "what is read holds NaN or infinity"
    rows = len(x) if x.ndim and x.size else 1
    if size > -(-x.size * bits // 8) + 4 * rows + HEADER:
        return "the file is larger than the codes, a scale per row and 64 bytes"
    if not x.size:
        return RIGHT
    step = np.abs(x.reshape(rows, -1)).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    error = np.abs(back - x).reshape(rows, -1)
    if (~back.reshape(rows, -1).any(1) & x.reshape(rows, -1).any(1)).any():
        return "a row of small numbers comes back as zeros"
    if (error > 0.51 * step + 1e-7).any():
        return "some value is off by more than half a step of its row"
    return RIGHT


def _cases(generator: np.random.Generator) -> list[Case]:
    def some(*shape: int) -> np.ndarray:
        return generator.normal(0, 1, shape).astype(np.float32)

    rows = some(6, 50) * np.float32(10.0) ** np.arange(-3, 3, dtype=np.float32)[:, None]
    half = some(3, 5)
    half[1] = 0
    return [
        Case("4 bits of 40 x 25", (SMALL, some(40, 25), 4), SMALL),
        Case("2 bits of 64 x 16", (SMALL, some(64, 16), 2), SMALL),
        Case("4 bits", (CLOSE, some(8, 12), 4), CLOSE),
        Case("rows of very different size", (CLOSE, rows, 4), CLOSE),
        Case("8 bits", (CLOSE, some(5, 30), 8), CLOSE),
        Case("3 bits, which do not fill bytes", (CLOSE, some(5, 7), 3), CLOSE),
        Case("an odd number of codes", (SHAPES, some(3, 5), 4), SHAPES),
        Case("a convolution's kernel", (SHAPES, some(4, 3, 3, 3), 4), SHAPES),
        Case("a vector", (SHAPES, some(9), 4), SHAPES),
        Case("a row of zeros", (EDGES, half, 4), EDGES),
        Case("nothing at all", (EDGES, some(0, 4), 4), EDGES),
    ]


def _file(
    pack: bool = True,
    per_row: bool = True,
    remembers_shape: bool = True,
    clipped: bool = True,
    zero_scale: bool = True,
    rounding: Callable = np.rint,
    pads: bool = True,
) -> Callable:
    """A plain way with strings of bits, with one thing or another done differently."""

    def tensor_file(bits):
        high = 2 ** (bits - 1) - 1

        def write(x):
            rows = x.reshape(len(x), -1) if x.size else x.reshape(1, -1)
            rows = rows if per_row else np.tile(x.reshape(1, -1), 1)
            with np.errstate(all="ignore"):
                scales = np.abs(rows).max(1, initial=0) / high
                scales = np.where(scales > 0, scales, 1) if zero_scale else scales
                codes = rounding(rows / scales[:, None])
                codes = (np.nan_to_num(codes) + high).astype(np.uint8).ravel()
            text = "".join(format(c, f"0{bits}b") for c in codes)
            text = text + "0" * (-len(text) % 8) if pads else text[: len(text) // 8 * 8]
            body = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
            shape = x.shape if remembers_shape else (x.size,)
            header = np.array([len(shape), *shape, len(scales)], "<u4").tobytes()
            return header + scales.astype("<f4").tobytes() + (body if pack else codes.tobytes())

        def read(content):
            ndim = int(np.frombuffer(content, "<u4", 1)[0])
            *shape, rows = (int(n) for n in np.frombuffer(content, "<u4", ndim + 1, 4))
            start = 8 + 4 * ndim
            scales, body = np.frombuffer(content, "<f4", rows, start), content[start + 4 * rows :]
            count = int(np.prod(shape))
            if pack:
                text = "".join(format(b, "08b") for b in body).ljust(bits * count, "0")
                codes = np.array(
                    [int(text[bits * i : bits * (i + 1)], 2) for i in range(count)], np.uint8
                )
            else:
                codes = np.frombuffer(body, np.uint8)
            with np.errstate(all="ignore"):
                values = (codes.astype(np.float32) - high).reshape(rows, -1) * scales[:, None]
                values = values / (scales[:, None] / scales[:, None]) if not zero_scale else values
            return values.astype(np.float32).reshape(shape)

        return write, read

    return tensor_file


TENSOR_FILE = Exercise(
    id="numbers.tensor_file",
    title="A file of few bits",
    points=16,
    reference=tensor_file,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=25,
    stages=((SMALL, 4), (CLOSE, 4), (SHAPES, 4), (EDGES, 4)),
    mistakes=(
        Mistake(
            "a byte for every code",
            _file(pack=False),
            "A code of 4 bits in a byte of its own takes 8: pack them.",
        ),
        Mistake(
            "one scale for all",
            _file(per_row=False),
            "With one scale the rows of small weights all become 0. Keep a scale per row in the file.",
        ),
        Mistake(
            "the shape is not in the file",
            _file(remembers_shape=False),
            "Nobody tells `read` the shape: it has to stand in the header.",
        ),
        Mistake(
            "cut instead of rounded",
            _file(rounding=np.trunc),
            "Cutting the fraction off makes errors of up to a whole step: round to the nearest.",
        ),
        Mistake(
            "a scale of 0",
            _file(zero_scale=False),
            "A row of zeros has the scale 0, and 0 / 0 is NaN. Any scale will do for it: take 1.",
        ),
        Mistake(
            "the last byte lost",
            _file(pads=False),
            "Where the codes do not fill the last byte it is needed nevertheless: round the number of "
            "bytes up.",
        ),
    ),
)

EXERCISES = (TENSOR_FILE,)
