"""Is an answer what was expected? Strict in type, dtype and shape; tolerant only where told.

Values are numbers, strings, NumPy arrays, torch tensors, and tuples of these. Only the exact types count:
an object that merely acts like an array could answer every comparison with yes.
"""

import copy
import numbers

import numpy as np

# Bound here: what an answer puts in the place of a name of NumPy does not judge it.
from numpy import isclose

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError:  # in a browser, where nothing is a tensor

    class Tensor:
        """No value is one."""


SHOWN = 6


def difference(got: object, expected: object, tolerance: float = 0.0) -> str | None:
    """None if `got` equals `expected`, else one sentence that says how it differs.

    Args:
        got: what came out.
        expected: what should have; its type decides what is allowed.
        tolerance: relative and absolute tolerance of floating-point values; integers are exact.
    """
    if type(expected) in (tuple, list):
        return _tuple_difference(got, expected, tolerance)
    if type(expected) in (np.ndarray, Tensor):
        return _array_difference(got, expected, tolerance)
    return _scalar_difference(got, expected, tolerance)


def _tuple_difference(got: object, expected: tuple | list, tolerance: float) -> str | None:
    if type(got) not in (tuple, list) or len(got) != len(expected):
        found = f"{len(got)} values" if type(got) in (tuple, list) else type(got).__name__
        return f"expected {len(expected)} values, got {found}"
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        text = difference(one, other, tolerance)
        if text:
            return f"value {index + 1} of {len(expected)}: {text}"
    return None


def _array_difference(got: object, expected: np.ndarray | Tensor, tolerance: float) -> str | None:
    if type(got) is not type(expected):
        return f"expected {_article(_kind(expected))}, got {_article(_kind(got))}"
    form = _form(got)
    if form:
        return f"expected a dense tensor in memory, got {_article(form)} one"
    if got.dtype != expected.dtype:
        return f"expected dtype {expected.dtype}, got {got.dtype}"
    if tuple(got.shape) != tuple(expected.shape):
        return f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    one, other = _numpy(got), _numpy(expected)
    same = _close(one, other, tolerance)
    if same.all():
        return None
    if same.ndim == 0:
        return f"expected {_number(other[()])}, got {_number(one[()])}"
    wrong = int(same.size - np.count_nonzero(same))
    place = tuple(int(i) for i in np.argwhere(~same)[0])
    return (
        f"{wrong} of {same.size} values differ, the first at {list(place)}: "
        f"expected {other[place]}, got {one[place]}"
    )


def _form(value: np.ndarray | Tensor) -> str:
    """What a tensor is that does not hold its numbers one after another; "" for any other."""
    if not isinstance(value, Tensor):
        return ""
    if value.is_nested:
        return "nested"
    if value.layout is not torch.strided:
        return str(value.layout).removeprefix("torch.")
    if value.is_quantized:
        return "quantized"
    return "" if value.device.type == "cpu" else value.device.type


def _close(one: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
    if one.dtype.kind in "fc":
        return isclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    return one == other


def _scalar_difference(got: object, expected: object, tolerance: float) -> str | None:
    if isinstance(expected, bool | np.bool_):
        if type(got) not in (bool, np.bool_):
            return f"expected True or False, got {_kind(got)}"
        return None if bool(got) == bool(expected) else f"expected {expected}, got {got}"
    if isinstance(expected, str):
        return (
            None
            if type(got) is str and got == expected
            else f"expected {expected!r}, got {show(got)}"
        )
    if isinstance(expected, numbers.Integral):
        if type(got) is bool or not isinstance(got, int | np.integer):
            return f"expected an integer, got {_kind(got)}"
        return (
            None if int(got) == int(expected) else f"expected {_whole(expected)}, got {_whole(got)}"
        )
    if type(got) is bool or not isinstance(got, int | float | np.integer | np.floating):
        return f"expected a number, got {_kind(got)}"
    if isinstance(got, int) and got.bit_length() > 1000:
        return f"expected {expected:.6g}, got {_whole(got)}"
    close = isclose(float(got), float(expected), rtol=tolerance, atol=tolerance, equal_nan=True)
    return None if close else f"expected {expected:.6g}, got {float(got):.6g}"


def _whole(number: int) -> str:
    """Digits in groups of three; of absurdly long numbers only the size."""
    bits = int(number).bit_length()
    return f"{int(number):,}" if bits < 400 else f"a number of about {bits * 3 // 10} digits"


def identical(one: object, other: object) -> bool:
    """Whether two values are the same to the last bit, NaN being equal to NaN."""
    if type(one) in (tuple, list):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, np.ndarray | Tensor):
        return difference(other, one) is None
    return one is other or one == other or (one != one and other != other)


def fresh(values: tuple) -> tuple:
    """A deep copy, so that one call cannot spoil the input of the next."""
    return copy.deepcopy(values)


def size(value: object) -> int:
    """How many numbers a value holds, to find the smallest failing case."""
    if isinstance(value, tuple | list):
        return sum(size(v) for v in value)
    if isinstance(value, np.ndarray):
        return value.size
    if isinstance(value, Tensor):
        return value.numel()
    return 1


def show(value: object) -> str:
    """A value in one short line: type, dtype, shape and the first few numbers."""
    if isinstance(value, tuple | list):
        few = ", ".join(show(v) for v in value[:SHOWN]) + (", …" if len(value) > SHOWN else "")
        return f"({few})" if isinstance(value, tuple) else f"[{few}]"
    if isinstance(value, np.ndarray | Tensor):
        form = _form(value)
        if form:
            return f"{form} tensor"
        flat = _numpy(value).reshape(-1)
        dtype = str(value.dtype).removeprefix("torch.")
        few = ", ".join(_number(v) for v in flat[:SHOWN]) + (", …" if flat.size > SHOWN else "")
        return f"{_kind(value)} {dtype} {list(value.shape)}: [{few}]"
    if isinstance(value, float | np.floating):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _whole(value).replace(",", "_") if value.bit_length() >= 400 else repr(value)
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"


def whole_numbers(value: object) -> np.ndarray | None:
    """The numbers of an array or a dense tensor of whole numbers, [n]; None for anything else."""
    if not isinstance(value, np.ndarray | Tensor) or _form(value):
        return None
    flat = _numpy(value).reshape(-1)
    return flat if flat.dtype.kind in "iu" else None


def _number(value: object) -> str:
    if isinstance(value, int) and value.bit_length() >= 400:
        return _whole(value)
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _numpy(value: np.ndarray | Tensor) -> np.ndarray:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().resolve_conj().resolve_neg()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _article(kind: str) -> str:
    """'an array', 'a tensor', 'None (no return?)'."""
    if kind.startswith("None"):
        return kind
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _kind(value: object) -> str:
    names = {np.ndarray: "array", Tensor: "tensor", type(None): "None (no return?)"}
    return names.get(type(value), type(value).__name__)
