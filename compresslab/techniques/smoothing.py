"""Moving difficulty between activations and weights without changing what a network computes.

    y = W x = (W diag(s)) (diag(s)^-1 x)

A norm's gain and shift in front of the layer can take diag(s)^-1, so it costs nothing at run time. Three
uses:

    smooth            s_j = max|x_j|^a / max|W_j|^(1 - a)      SmoothQuant [1], equation 4
                      an outlier channel of activations is divided, the weights' column takes it: for W8A8
    search_scales     s_j = mean|x_j|^a, a searched            AWQ [2], section 3.2
                      columns that see large activations are rounded on a finer grid: for weights alone
    plant_outliers    s_j = 1 / k for a few channels           makes the outliers that large models have [3]

A norm may be scaled only if all that reads it are linear layers that take the factor. Which read it is
found by running the model; that nothing else does is checked by running it again (BERT's residual reads
it, too: refused).

[1] Xiao et al. 2022, https://arxiv.org/abs/2211.10438. [2] Lin et al. 2023,
https://arxiv.org/abs/2306.00978. [3] Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, section 4.

Left out: scales between two linear layers with no norm between them (attention's values and output).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.network.edit import plain_copy
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.network.taps import tapped
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest

SMALLEST = 1e-5
STEPS = 20
KEPT_ROWS = 1024


@dataclass(frozen=True)
class Feed:
    """A norm, the linear layers that read it, and a sample of what they read, float32 [rows, channels]."""

    norm: str
    readers: tuple[str, ...]
    x: torch.Tensor


@torch.no_grad()
def feeds(model: nn.Module, inputs: Sequence[torch.Tensor]) -> list[Feed]:
    """The norms that linear layers read directly, in the order of the run.

    Args:
        model: any module tree; a norm is a module whose class is called ...Norm, with a gain [channels].
        inputs: batches, each what `model(batch)` takes.

    Raises:
        ValueError: if there are no batches or no such norm.
    """
    if len(inputs) == 0:
        raise ValueError("inputs must hold at least one batch, got 0")
    source: dict[int, tuple[str, int]] = {}
    readers: dict[str, dict[str, None]] = {}
    seen: dict[str, list[torch.Tensor]] = {}
    alive: list[torch.Tensor] = []

    def after_norm(name: str, _norm: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        # Kept alive, so that no other tensor of this run gets its memory.
        alive.append(output)
        source[_memory(output)] = name, output.shape[-1]
        seen.setdefault(name, []).append(output.reshape(-1, output.shape[-1]).float())

    def before_linear(name: str, _layer: nn.Module, arguments: tuple) -> None:
        # Some of its tokens, or all: a view of what the norm gave.
        norm, width = source.get(_memory(arguments[0]), ("", 0))
        if norm and arguments[0].shape[-1] == width:
            readers.setdefault(norm, {})[name] = None

    norms = {n: m for n, m in model.named_modules() if is_norm(m)}
    with tapped(norms, after=after_norm), tapped(linear_layers(model), before=before_linear):
        for batch in inputs:
            model(batch)
            source.clear()
            alive.clear()
    if not readers:
        raise ValueError("model must have a norm that linear layers read, got none")
    return [Feed(n, tuple(names), torch.cat(seen[n])) for n, names in readers.items()]


def _memory(x: torch.Tensor) -> int:
    """Where a tensor's numbers lie: the same for its views."""
    return x.untyped_storage().data_ptr()


def is_norm(module: nn.Module) -> bool:
    """LayerNorm, RMSNorm, LlamaRMSNorm ...: one gain a channel."""
    weight = getattr(module, "weight", None)
    return type(module).__name__.endswith("Norm") and weight is not None and weight.ndim == 1


@torch.no_grad()
def migrate(model: nn.Module, feed: Feed, scale: torch.Tensor) -> None:
    """Divide a norm's output by `scale` and multiply its readers' columns by it, in place.

    Raises:
        ValueError: if scale is not one positive, finite number a channel.
    """
    norm = model.get_submodule(feed.norm)
    good = scale.shape == norm.weight.shape and bool(((scale > 0) & torch.isfinite(scale)).all())
    if not good:
        raise ValueError(
            f"scale must be positive and finite, of shape {list(norm.weight.shape)}, got {list(scale.shape)}"
        )
    norm.weight.div_(scale)
    if getattr(norm, "bias", None) is not None:
        norm.bias.div_(scale)
    for name in feed.readers:
        layer = model.get_submodule(name)
        set_matrix(layer, matrix(layer) * scale)


def smoothing_scale(x: torch.Tensor, weights: Sequence[torch.Tensor], alpha: float) -> torch.Tensor:
    """max|x_j|^alpha / max|W_j|^(1 - alpha).

    Args:
        x: [rows, channels].
        weights: matrices [outputs, channels] that all read x.
        alpha: 0 leaves all difficulty with the activations, 1 gives all to the weights.
    """
    x_max = x.abs().amax(0).clamp(min=SMALLEST)
    w_max = torch.cat(list(weights)).abs().amax(0).clamp(min=SMALLEST)
    return (x_max**alpha / w_max ** (1 - alpha)).clamp(min=SMALLEST)


def smooth(model: nn.Module, inputs: Sequence[torch.Tensor], alpha: float = 0.5) -> nn.Module:
    """A copy of the model that computes the same with outliers moved into the weights.

    Args:
        model: any module tree with norms in front of linear layers.
        inputs: batches for calibration.
        alpha: 0 to 1.

    Raises:
        ValueError: for another alpha, or where something else reads a norm.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, got {alpha}")

    def scale_of(feed: Feed, weights: list[torch.Tensor]) -> torch.Tensor:
        return smoothing_scale(feed.x, weights, alpha)

    return _migrated(model, inputs, scale_of)


def search_scales(
    model: nn.Module, inputs: Sequence[torch.Tensor], config: WeightConfig
) -> nn.Module:
    """A copy of the model that computes the same and loses less when its weights are rounded.

    Args:
        model: any module tree with norms in front of linear layers.
        inputs: batches for calibration.
        config: how the weights will be rounded.

    Raises:
        ValueError: where something else reads a norm.
    """

    def rounding(weight: torch.Tensor) -> torch.Tensor:
        return round_to_nearest(weight, config).dequantize()

    def scale_of(feed: Feed, weights: list[torch.Tensor]) -> torch.Tensor:
        return best_scale(feed.x, torch.cat(weights), rounding)

    return _migrated(model, inputs, scale_of)


def best_scale(
    x: torch.Tensor, weight: torch.Tensor, rounding: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """mean|x_j|^a, its geometric mean made 1, with the a of least error in the layer's outputs.

    Args:
        x: [rows, channels]; some KEPT_ROWS of them are used.
        weight: [outputs, channels].
        rounding: from a weight to the weight that is left of it.
    """
    rows = x[:: max(1, len(x) // KEPT_ROWS)]
    wanted, magnitude = rows @ weight.T, rows.abs().mean(0).clamp(min=SMALLEST)
    best, chosen = torch.inf, torch.ones_like(magnitude)
    for step in range(STEPS):
        scale = magnitude ** (step / STEPS)
        scale = scale / scale.log().mean().exp()
        error = float((rows @ (rounding(weight * scale) / scale).T - wanted).square().mean())
        if error < best:
            best, chosen = error, scale
    return chosen


def plant_outliers(
    model: nn.Module, inputs: Sequence[torch.Tensor], channels: Sequence[int], factor: float
) -> nn.Module:
    """A copy of the model that computes the same with outliers in some channels of every norm.

    Args:
        model: any module tree with norms in front of linear layers.
        inputs: one batch is enough.
        channels: which.
        factor: how many times larger they become.
    """

    def scale_of(feed: Feed, _weights: list[torch.Tensor]) -> torch.Tensor:
        scale = torch.ones(feed.x.shape[1])
        scale[list(channels)] = 1 / factor
        return scale

    return _migrated(model, inputs, scale_of)


@torch.no_grad()
def _migrated(model: nn.Module, inputs: Sequence[torch.Tensor], scale_of) -> nn.Module:  # noqa: ANN001
    model = plain_copy(model).eval()
    found = feeds(model, inputs)
    before = first_output(model, inputs[0])
    for feed in found:
        weights = [matrix(model.get_submodule(name)) for name in feed.readers]
        migrate(model, feed, scale_of(feed, weights))
    after = first_output(model, inputs[0])
    slack = 1e-2 if before.dtype == torch.float32 else 0.2
    if not torch.allclose(before, after, rtol=slack, atol=slack * float(before.std())):
        raise ValueError(
            "model must let only linear layers read its norms: scaling them changed what it computes"
        )
    return model


def first_output(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """What a model answers: the tensor, or the first of several."""
    out = model(batch)
    return out if isinstance(out, torch.Tensor) else out[0]
