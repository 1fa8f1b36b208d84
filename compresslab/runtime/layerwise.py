"""From a network that simulates integers layer by layer (`ptq.prepare_layers`) to one that runs on them.

    weights      inputs of a layer     runs on
    8 bits       8 bits                int8 products, where every output has its scale; each row of inputs
                                       has a range of its own: finer
    2 to 8       floats                packed codes
    others       8 bits                packed codes; inputs stay floats: finer

The codes are the simulation's, one for one; scales of packed codes are rounded to float16. What lies between
the layers stays in floats, as in the simulation.

Left out: inputs of fewer than 8 bits, for which there is no kernel.
"""

import torch
from torch import nn

from compresslab.network.edit import replaced
from compresslab.numerics.affine import QParams, QTensor, quantize
from compresslab.runtime.dynamic import DynamicInt8Linear
from compresslab.runtime.packed import WeightOnlyLinear
from compresslab.techniques.quantizer import ActivationQuantizer, Quantized
from compresslab.techniques.weight_only import WeightConfig


def convert_layers(model: nn.Module) -> nn.Module:
    """A copy of the simulation with its linear layers on the kernels.

    Raises:
        ValueError: naming a layer that is not linear, or whose inputs have fewer than 8 bits.
    """
    new = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and _is_simulated(module):
            new[name] = _on_kernels(name, module)
    inside = tuple(f"{name}." if name else "" for name in new)
    left = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Quantized) and not name.startswith(inside)
    ]
    if left:
        raise ValueError(f"{left[0]} stands alone: only layers of prepare_layers can be converted")
    return replaced(model, new).eval()


def _is_simulated(parts: nn.Sequential) -> bool:
    """Whether these are the quantizers that `prepare_layers` puts in a layer's place."""
    kinds = [type(part) for part in parts]
    return kinds in ([Quantized], [ActivationQuantizer, Quantized])


def _on_kernels(name: str, parts: nn.Sequential) -> nn.Module:
    simulated, bits = parts[-1], None
    if not isinstance(simulated.layer, nn.Linear):
        kind = type(simulated.layer).__name__
        raise ValueError(f"{name} must be linear to be converted by itself, got {kind}")
    if len(parts) == 2:
        bits = parts[0].grid.bits
    if bits is not None and bits < 8:
        raise ValueError(
            f"the inputs of {name} have {bits} bits, for which there is no kernel: prepare with "
            "activation_bits=8, or None for packed weights alone"
        )
    if bits == simulated.weight_bits == 8 and simulated.weight_quantizer.axis == 0:
        return _as_int8(simulated)
    return WeightOnlyLinear(_codes(name, simulated), simulated.layer.bias)


def _as_int8(simulated: Quantized) -> DynamicInt8Linear:
    """The layer with its weight on the grid: rounding it by channel gives the simulation's codes again."""
    layer = nn.Linear(simulated.layer.in_features, simulated.layer.out_features, device="meta")
    with torch.no_grad():
        layer.weight = nn.Parameter(simulated.weight_quantizer(simulated.layer.weight))
    layer.bias = simulated.layer.bias
    return DynamicInt8Linear(layer)


def _codes(name: str, simulated: Quantized) -> QTensor:
    """The weight's codes on an unsigned grid, whose zero point is its middle."""
    weight = simulated.layer.weight.detach()
    params = simulated.weight_quantizer.qparams()
    middle = 1 << (simulated.weight_bits - 1)
    codes = (quantize(weight, params).codes.to(torch.int16) + middle).to(torch.uint8)
    outputs, inputs = weight.shape
    group = params.group or inputs
    scale = params.scale if params.group else params.scale.reshape(-1, 1).expand(outputs, 1)
    scale = scale.half().float().contiguous()
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(
            f"the scales of {name} must be numbers of float16, which packed codes have"
        )
    zero = torch.full(scale.shape, middle, dtype=torch.int32)
    return QTensor(
        codes, QParams(scale, zero, WeightConfig(simulated.weight_bits).grid, group=group)
    )
