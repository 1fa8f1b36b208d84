"""What a problem is, when its two answers agree, and what problems are drawn from."""

from collections.abc import Callable

import numpy as np

from compresslab.kernels.int8_conv import Window

Random = np.random.Generator
Arrays = np.ndarray | tuple[np.ndarray, ...]
Problem = Callable[[Random], tuple[Arrays, Arrays]]
PROBLEMS: dict[str, Problem] = {}
ROWS, OUTPUTS, INPUTS = (1, 2, 7, 13, 33), (1, 5, 16, 17, 33, 70), (1, 3, 32, 64, 65, 130)


def problem(name: str) -> Callable[[Problem], Problem]:
    """Enter a problem under the kernel's name, such as "int8.matmul"."""

    def enter(made: Problem) -> Problem:
        PROBLEMS[name] = made
        return made

    return enter


def agrees(found: Arrays, expected: Arrays) -> bool:
    """Whether codes and integers are equal, and floats equal up to the order of summation."""
    if isinstance(found, tuple):
        return all(agrees(one, other) for one, other in zip(found, expected, strict=True))
    if found.shape != expected.shape:
        return False
    if found.dtype.kind == "f":
        return bool(np.allclose(found, expected, rtol=1e-4, atol=1e-4))
    return bool(np.array_equal(found, expected))


def normal(random: Random, *shape: int) -> np.ndarray:
    """Float32 numbers of mean 0 and standard deviation 1."""
    return random.normal(0, 1, shape).astype(np.float32)


def random_codes(random: Random, *shape: int) -> np.ndarray:
    """Uint8 of all values."""
    return random.integers(0, 256, shape, dtype=np.uint8)


def random_weights(random: Random, *shape: int) -> np.ndarray:
    """Int8 from -127 to 127."""
    return random.integers(-127, 128, shape).astype(np.int8)


def sizes(random: Random) -> tuple[int, int, int]:
    """Rows, outputs and inputs of a product."""
    return tuple(int(random.choice(some)) for some in (ROWS, OUTPUTS, INPUTS))


def random_images(random: Random) -> tuple[np.ndarray, Window, dict]:
    """Codes [b, h, w, c], a window, and the same window as `reference.windows_of` takes it."""
    kernel, stride, padding = (int(random.integers(*edge)) for edge in ((1, 4), (1, 3), (0, 2)))
    height, width = (int(n) for n in random.integers(kernel, 9, 2))
    x = random_codes(
        random, int(random.choice([1, 3])), height, width, int(random.choice([1, 5, 16]))
    )
    where = {"size": (kernel, kernel), "stride": (stride, stride), "padding": (padding, padding)}
    return x, Window(kernel, kernel, stride, padding), where
