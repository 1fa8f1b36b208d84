"""Rotations (旋转): turn what flows through a transformer until no channel stands out; compute the same.

    y = W x = (W Q) (Q^T x)         Q orthogonal

An outlier channel makes one scale for all channels coarse. In other axes it is spread over all of them:
a Hadamard matrix (哈达玛矩阵) has entries of one magnitude, 1 / sqrt(n), so a lone number v becomes n numbers
+-v / sqrt(n). Ashkboos et al. 2024 (QuaRot, https://arxiv.org/abs/2404.00456, section 4); Tseng et al.
2024 (QuIP#, https://arxiv.org/abs/2402.04396, section 3).

The residual stream (残差流) is turned as a whole, for nothing at run time:

    tables of words        T Q             the stream begins turned
    layers that write      Q^T W           attention's output, the second feed-forward layer
    layers that read       W Q             behind a norm, which turning must pass: RMSNorm(x Q) = RMSNorm(x) Q
                                           if it has no gain; the gain goes into the layers that read it

A LayerNorm also takes off the mean, which turning does not pass. It does not have to: what writes is made to
write numbers of mean 0 (Ashkboos et al. 2024, SliceGPT, https://arxiv.org/abs/2401.15024, section 3.2), and
the norm becomes an RMSNorm.

Layers that read something else (behind an activation or attention) are turned where they read, by a fast
transform that runs with the model: `with_turned_inputs`. Left out: rotations that are learned (SpinQuant),
heads of attention turned inside.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from compresslab.kernels import hadamard as kernel
from compresslab.network.edit import plain_copy, replaced
from compresslab.network.select import linear_layers, matrix, refuse_fast_path, set_matrix
from compresslab.precision import not_float32
from compresslab.techniques.smoothing import feeds, first_output

PALEY = {12: 11, 20: 19}
"""Orders that no power of two gives, each with the prime that builds it."""
SAME = 1e-3
"""How far outputs may move, in standard deviations of the outputs."""


def hadamard(n: int) -> torch.Tensor:
    """A Hadamard matrix over sqrt(n), float32 [n, n]: orthogonal, every entry +-1 / sqrt(n).

    Powers of two after Sylvester, and 12 and 20 after Paley, put together by Kronecker products.

    Raises:
        ValueError: if n is no product of 2, 12 and 20.
    """
    result = torch.ones(1, 1, dtype=torch.float64)
    for factor in _factors(n):
        result = torch.kron(result, _order(factor))
    return (result / n**0.5).float()


def _factors(n: int) -> list[int]:
    """12s, 20s and one power of two, the largest part of n by 2s last."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
    rest, found = int(n), []
    for order in PALEY:
        while rest % order == 0:
            rest //= order
            found.append(order)
    if rest & (rest - 1):
        raise ValueError(f"n must be a product of 2, 12 and 20, got {n}")
    return [*found, rest]


def _order(n: int) -> torch.Tensor:
    """A matrix of +-1 whose rows are orthogonal, float64 [n, n], for n = 12, 20 or a power of two."""
    if n not in PALEY:
        result = torch.ones(1, 1, dtype=torch.float64)
        for _ in range(n.bit_length() - 1):
            result = torch.kron(result, torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64))
        return result
    # Paley's first construction: the squares modulo a prime that is 3 modulo 4.
    prime = PALEY[n]
    squares = {i * i % prime for i in range(1, prime)}
    jacobsthal = [
        [0 if i == j else 1 if (i - j) % prime in squares else -1 for j in range(prime)]
        for i in range(prime)
    ]
    skew = torch.zeros(n, n, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = torch.tensor(jacobsthal, dtype=torch.float64)
    return torch.eye(n, dtype=torch.float64) + skew


def signs(n: int, seed: int) -> torch.Tensor:
    """N random +-1, float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (n,), generator=generator).float() * 2 - 1


def random_hadamard(n: int, seed: int = 0) -> torch.Tensor:
    """A Hadamard matrix with the signs of its rows drawn at random, float32 [n, n]: orthogonal."""
    return signs(n, seed)[:, None] * hadamard(n)


def random_orthogonal(n: int, seed: int = 0) -> torch.Tensor:
    """A rotation drawn uniformly, float32 [n, n]: the control, which no fast transform computes."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def turned(x: torch.Tensor) -> torch.Tensor:
    """Every row of x [..., n] times `hadamard(n)` transposed, by the fast transform, in x's dtype.

    Gradients go through it: back by the inverse, which is the transposed matrix.
    """
    return _Turned.apply(x, False)


def _transformed(x: torch.Tensor, back: bool) -> torch.Tensor:
    *others, power = _factors(x.shape[-1])
    small = hadamard(x.shape[-1] // power)
    flat = np.ascontiguousarray(x.detach().float().numpy()).reshape(-1, len(small), power)
    inner = torch.from_numpy(kernel.transform(flat))
    inner = (small.T if back else small) @ inner if others else inner
    return inner.reshape(x.shape).to(x.dtype)


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, back: bool) -> torch.Tensor:  # noqa: ANN001
        ctx.back = back
        return _transformed(x, back)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN001
        return _Turned.apply(gradient, not ctx.back), None


# ---- the residual stream ---------------------------------------------------------------------------
@torch.no_grad()
def rotated(
    model: nn.Module, inputs: Sequence[torch.Tensor], turn: torch.Tensor | None = None
) -> nn.Module:
    """A copy whose residual stream is turned and that computes the same.

    Args:
        model: a transformer whose norms stand in front of its layers: tables of words, norms that linear
            layers read, and linear layers that write into the stream. Its head must be a layer of its own
            or share a table of words.
        inputs: batches, each what `model(batch)` takes, to find out which layer reads what.
        turn: orthogonal, float32 [width, width]; `random_hadamard(width)` if None.

    Its file is read back into a model that was turned as well (`rotated` of any weights): a norm has no gain
    there, and the head is a layer of its own.

    Raises:
        ValueError: if the model is not in float32 or has no such norms, `turn` is not orthogonal, or the copy
            does not compute the same, because something else reads or writes the stream.
    """
    reason = not_float32(model)
    if reason:
        raise ValueError(reason)
    model = untied(plain_copy(model).eval())
    found = feeds(model, inputs)
    before = first_output(model, inputs[0])
    width = found[0].x.shape[1]
    turn = random_hadamard(width) if turn is None else turn
    _check_orthogonal(turn, width)
    norms = {feed.norm: model.get_submodule(feed.norm) for feed in found}
    centred = any(isinstance(norm, nn.LayerNorm) for norm in norms.values())
    readers = {name for feed in found for name in feed.readers}
    for feed in found:
        for name in feed.readers:
            _read_plain(model, name, norms[feed.norm])
    layers = linear_layers(model)
    for name in readers:
        set_matrix(layers[name], matrix(layers[name]) @ turn)
    for name, layer in layers.items():
        if name not in readers and matrix(layer).shape[0] == width:
            _write_turned(layer, turn, centred)
    for table in model.modules():
        if isinstance(table, nn.Embedding) and table.embedding_dim == width:
            rows = table.weight.data
            rows = rows - rows.mean(1, keepdim=True) if centred else rows
            table.weight.data = rows @ turn
    model = replaced(model, {name: _plain(norm) for name, norm in norms.items()}).eval()
    after = first_output(model, inputs[0])
    if not bool((after - before).abs().max() <= SAME * before.std()):
        raise ValueError(
            "model computes something else once it is turned: something beside the layers found reads or "
            f"writes its residual stream (read by {', '.join(sorted(readers))})"
        )
    return model


def untied(model: nn.Module) -> nn.Module:
    """The model with a head of its own where it shared the table of words, in place; returns itself."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) in tables:
            asked = module.weight.requires_grad
            module.weight = nn.Parameter(module.weight.detach().clone(), asked)
    if hasattr(model, "own_head"):
        model.own_head()
    return model


def _check_orthogonal(turn: torch.Tensor, width: int) -> None:
    if tuple(turn.shape) != (width, width):
        raise ValueError(f"turn must be [{width}, {width}], got {list(turn.shape)}")
    if not torch.allclose(turn.double() @ turn.double().T, torch.eye(width).double(), atol=1e-4):
        raise ValueError(
            "turn must be orthogonal, got one whose product with itself is no identity"
        )


def _read_plain(model: nn.Module, name: str, norm: nn.Module) -> None:
    """Take a norm's gain and shift into a layer that reads it, in place."""
    layer, shift = model.get_submodule(name), getattr(norm, "bias", None)
    weight = matrix(layer)
    if shift is not None:
        moved = weight @ shift.detach().float()
        if layer.bias is None:
            layer.bias = nn.Parameter(moved, layer.weight.requires_grad)
        else:
            layer.bias.data += moved
    set_matrix(layer, weight * _gain(norm))


def _gain(norm: nn.Module) -> torch.Tensor:
    """What a norm multiplies its channels by, as it acts: some add 1 to their weight."""
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach()
    ones = torch.ones(norm.weight.shape[0])
    return norm(ones) * (1 + _epsilon(norm)) ** 0.5


def _epsilon(norm: nn.Module) -> float:
    names = ("eps", "variance_epsilon")
    found = next((getattr(norm, n) for n in names if hasattr(norm, n)), 1e-5)
    return torch.finfo(torch.float32).eps if found is None else found


def _write_turned(layer: nn.Module, turn: torch.Tensor, centred: bool) -> None:
    """Let a layer write into the turned stream, its outputs of mean 0 where norms had taken it off."""
    weight = matrix(layer)
    set_matrix(layer, turn.T @ (weight - weight.mean(0) if centred else weight))
    if layer.bias is not None:
        bias = layer.bias.data
        layer.bias.data = (bias - bias.mean() if centred else bias) @ turn


def _plain(norm: nn.Module) -> nn.RMSNorm:
    """X over the root of its mean square, and no gain."""
    return nn.RMSNorm(norm.weight.shape[0], _epsilon(norm), elementwise_affine=False)


# ---- inputs that no norm gives ---------------------------------------------------------------------
class TurnedInput(nn.Module):
    """A linear layer whose inputs are turned by the fast transform first: (W H^T) (H x) = W x."""

    def __init__(self, layer: nn.Linear) -> None:
        """Args: the layer; it is copied."""
        super().__init__()
        self.layer = plain_copy(layer)
        with torch.no_grad():
            set_matrix(self.layer, matrix(layer) @ hadamard(matrix(layer).shape[1]).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.layer(turned(x))


def with_turned_inputs(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy that turns the inputs of some layers while it runs, and computes the same.

    Args:
        model: any module tree.
        names: of linear layers whose number of inputs `hadamard` has.

    Raises:
        ValueError: for a name that is no linear layer, or such a number.
    """
    refuse_fast_path(model)
    layers = linear_layers(model)
    unknown = [name for name in names if name not in layers]
    if unknown:
        raise ValueError(f"names must be linear layers of the model, got {', '.join(unknown)}")
    return replaced(model, {name: TurnedInput(layers[name]) for name in names}).eval()
