"""Sums and products with numbers, with buffers, and of two results.

    x * a + b, a - x, x / a, -x            Affine(a, b)
    x - mean, x / sd (per channel)         a batch norm without statistics of its own
    x * gamma (the last axis)              Scale
    x + y, x - y, x * y                    operator.add and operator.mul

A division by a result, and a number in a result's place in torch.sub's `alpha`, have no rule.
"""

import operator

import torch
from torch import fx

from compresslab.network.modules import Affine, PerChannel, Scale
from compresslab.network.writer import Writer, name_of, shape_of

ADD = ("add", "iadd", "add_")
MULTIPLY = ("mul", "imul", "mul_", "multiply")
SUBTRACT = ("sub", "isub", "sub_", "subtract", "rsub")
DIVIDE = ("truediv", "itruediv", "div", "div_", "divide")


def _arithmetic(write: Writer, node: fx.Node) -> None:
    name = name_of(node)
    if name == "neg":
        write.becomes(node, Affine(-1))
        return
    if len(node.args) != 2 or set(node.kwargs) - {"alpha"}:
        return
    a, b = node.args if name != "rsub" else reversed(node.args)
    alpha = node.kwargs.get("alpha", 1)
    if not isinstance(alpha, int | float):
        return
    if isinstance(b, int | float):
        _with_number(write, node, name, a, alpha * b if name not in MULTIPLY + DIVIDE else b)
    elif isinstance(a, int | float):
        _number_with(write, node, name, a, b, alpha)
    elif write.tensor(b) is not None or write.tensor(a) is not None:
        _with_buffer(write, node, name, a, b, alpha)
    elif name in ADD or name in SUBTRACT:
        factor = alpha if name in ADD else -alpha
        if factor != 1:
            b = write.put(node, Affine(factor), b)
        write.function(node, operator.add, a, b)
    elif name in MULTIPLY:
        write.function(node, operator.mul, a, b)


def _with_number(write: Writer, node: fx.Node, name: str, a: fx.Node, b: float) -> None:
    if isinstance(a, fx.Node) and isinstance(b, bool) is False:
        if name in ADD + SUBTRACT:
            write.becomes(node, Affine(1, b if name in ADD else -b), source=a)
        elif b != 0:
            write.becomes(node, Affine(b if name in MULTIPLY else 1 / b), source=a)


def _number_with(
    write: Writer, node: fx.Node, name: str, a: float, b: fx.Node, alpha: float
) -> None:
    if name in ADD:
        write.becomes(node, Affine(alpha, a), source=b)
    elif name in SUBTRACT:
        write.becomes(node, Affine(-alpha, a), source=b)
    elif name in MULTIPLY:
        write.becomes(node, Affine(a), source=b)


def _with_buffer(
    write: Writer, node: fx.Node, name: str, a: object, b: object, alpha: float
) -> None:
    """A number per channel, such as the mean and sd that images are normalised with, is a norm."""
    held = write.tensor(b) if write.tensor(b) is not None else write.tensor(a)
    source, shape = a if write.tensor(b) is not None else b, shape_of(node)
    turned = write.tensor(b) is None
    if held.numel() == 1:
        # With more axes than the other has, the result has them too.
        before = shape_of(source) if isinstance(source, fx.Node) else None
        if held.requires_grad or held.ndim > (0 if before is None else len(before)):
            return
        number = float(held)
        if turned:
            _number_with(write, node, name, number, source, alpha)
        else:
            _with_number(
                write, node, name, source, number if name in MULTIPLY + DIVIDE else alpha * number
            )
        return
    wide = held.reshape(-1)
    last = shape is not None and held.ndim == 1 and len(wide) == shape[-1]
    if last and name in MULTIPLY and not node.kwargs:
        write.becomes(node, Scale(held), source=source)
        return
    per_channel = (
        shape is not None
        and len(shape) == 4
        and held.numel() == shape[1]
        and held.ndim >= 3
        and held.shape[-2:] == (1, 1)
    )
    if not per_channel or node.kwargs or (turned and name in SUBTRACT + DIVIDE):
        return
    gain, shift = torch.ones_like(wide), torch.zeros_like(wide)
    gain = wide if name in MULTIPLY else 1 / wide if name in DIVIDE else gain
    shift = wide if name in ADD else -wide if name in SUBTRACT else shift
    write.becomes(node, PerChannel(gain, shift, held.requires_grad), source=source)


def _square(write: Writer, node: fx.Node) -> None:
    if node.args[1:] == (2,):
        write.function(node, operator.mul, node.args[0], node.args[0])


RULES = {
    **dict.fromkeys((*ADD, *MULTIPLY, *SUBTRACT, *DIVIDE, "neg"), _arithmetic),
    "pow": _square,
}
