"""Mixed precision (混合精度): bits where they matter, found by measuring.

    sensitivity    quantize one layer at a time to b bits, everything else in float: what does it cost?
    search         start with every layer at the most bits; again and again take one bit from the layer
                   that gives up the least quality for each byte it saves, until the file fits

Greedy search on the sensitivities assumes that layers' losses add up; the result must be measured, and is
by whoever asked (Dong et al. 2019, https://arxiv.org/abs/1905.03696, argue from the Hessian instead).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.kernels.bitpack import packed_size
from compresslab.network.edit import plain_copy
from compresslab.numerics.error import sqnr_db
from compresslab.progress_bar import track
from compresslab.techniques.ptq import LAYERS
from compresslab.techniques.quantizer import QuantConfig, WeightQuantizer

BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True)
class Sensitivity:
    """What one layer at `bits` costs: the quality reached, the weight's SQNR in dB, its bytes."""

    layer: str
    bits: int
    quality: float
    sqnr: float
    size: int


def weight_bytes(weight: torch.Tensor, bits: int, scales: int | None = None) -> int:
    """Bytes of a weight [outputs, ...] packed, with float32 scales: so many, or one a channel."""
    return packed_size(weight.numel(), bits) + 4 * (len(weight) if scales is None else scales)


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    quality: Callable[[nn.Module], float],
    bits: Sequence[int] = BITS,
    config: QuantConfig | None = None,
) -> list[Sensitivity]:
    """Quantize each layer's weight alone to each width, and measure.

    Args:
        model: the float network; left as it was.
        quality: what to keep high, such as validation accuracy.
        bits: the widths to try.
        config: sharing and range of the scales.
    """
    config = config or QuantConfig()
    results = []
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for name, layer in track(layers.items(), "sensitivity", "layer"):
        kept = layer.weight.detach().clone()
        try:
            for width in bits:
                quantizer = WeightQuantizer(kept, width, config)
                layer.weight.copy_(quantizer(kept))
                # A layer of zeros is kept exactly, whatever its ratio of signal to noise.
                noise = sqnr_db(kept, layer.weight) if bool(kept.any()) else math.inf
                size = weight_bytes(kept, width, quantizer.scale.numel())
                results.append(Sensitivity(name, width, quality(model), noise, size))
        finally:
            layer.weight.copy_(kept)
    return results


@torch.no_grad()
def with_bits(
    model: nn.Module, bits: Mapping[str, int], config: QuantConfig | None = None
) -> nn.Module:
    """A copy whose layers have weights of so many bits, as floats: what a plan is measured by.

    Args:
        model: the float network.
        bits: 2 to 8 by the name of a layer; layers that are not named stay as they are.
        config: sharing and range of the scales, as for `sensitivity`.

    Raises:
        ValueError: for a name that is no layer with a weight to quantize.
    """
    config, model = config or QuantConfig(), plain_copy(model).eval()
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    unknown = sorted(set(bits) - set(layers))
    if unknown:
        raise ValueError(f"bits must name layers of the model, got {', '.join(unknown)}")
    for name, width in bits.items():
        weight = layers[name].weight
        weight.copy_(WeightQuantizer(weight, width, config)(weight))
    return model


def search(scan: Sequence[Sensitivity], budget: int, base: float) -> dict[str, int]:
    """Bits of each layer that keep the weights within `budget` bytes at the least expected loss.

    Args:
        scan: from `sensitivity`.
        budget: bytes for all weights and scales.
        base: the quality of the float network.

    Returns:
        Bits by layer name, for `QuantConfig.layers`.

    Raises:
        ValueError: if even the fewest bits everywhere do not fit, or a number is NaN.
    """
    if math.isnan(budget):
        raise ValueError("budget must be a number, got NaN")
    if math.isnan(base):
        raise ValueError("base must be a number, got NaN")
    lost = next((e for e in scan if math.isnan(e.quality)), None)
    if lost is not None:
        raise ValueError(
            f"scan must hold a quality for every layer, got NaN for {lost.layer} at {lost.bits} bits"
        )
    table: dict[str, dict[int, Sensitivity]] = {}
    for entry in scan:
        table.setdefault(entry.layer, {})[entry.bits] = entry
    chosen = {name: max(widths) for name, widths in table.items()}
    while _size(table, chosen) > budget:
        steps = [
            (_price(widths, chosen[name], base), name)
            for name, widths in table.items()
            if chosen[name] > min(widths)
        ]
        if not steps:
            raise ValueError(
                f"budget must be at least {_size(table, chosen)} bytes for these widths, got {budget}"
            )
        _, name = min(steps)
        chosen[name] = max(b for b in table[name] if b < chosen[name])
    return chosen


def _size(table: Mapping[str, Mapping[int, Sensitivity]], chosen: Mapping[str, int]) -> int:
    return sum(table[name][bits].size for name, bits in chosen.items())


def _price(widths: Mapping[int, Sensitivity], bits: int, base: float) -> float:
    """Quality given up for each byte saved by the next smaller width.

    Losses below the noise of measuring look like gains; they count as none, and the decibels lost
    decide among them.
    """
    now, then = widths[bits], widths[max(b for b in widths if b < bits)]
    loss = max(0.0, base - then.quality) - max(0.0, base - now.quality)
    saved = now.size - then.size
    return (max(0.0, loss) + 1e-3 * max(0.0, now.sqnr - then.sqnr)) / saved
