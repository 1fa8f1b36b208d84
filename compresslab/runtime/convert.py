"""One verb from what a technique left to what runs on the kernels.

    what a technique left                         what `convert` gives
    ptq.quantize_post_training, qat.tune          a Program of integer steps (`integers`)
    ptq.prepare_layers                            linear layers on int8 or packed codes (`layerwise`)
    binarize with binary activations              a Program on bits, or, where the network is no chain,
                                                  layers on bits (`bits`)
    weight_only.quantize, gptq.quantize           packed weights (`weight_only`)
    sharing.share_weights                         plain floats (`sharing.unshared`)
    masks, low rank, corrections, plain floats    a copy in evaluation mode

A program, and whatever runs on the kernels already, comes back as it is. Dynamic int8 is a choice of its own,
because nothing was done to the network before: `dynamic.convert_dynamic`.
"""

from torch import nn

from compresslab.arguments import check_open
from compresslab.network.edit import plain_copy
from compresslab.runtime.bits import convert_xnor, with_xnor_layers
from compresslab.runtime.dynamic import convert_dynamic
from compresslab.runtime.integers import ConversionError, convert_integers
from compresslab.runtime.layerwise import convert_layers
from compresslab.runtime.peers import OnnxModel
from compresslab.runtime.program import Program
from compresslab.runtime.weight_only import convert_weights
from compresslab.techniques.binarize import Binary
from compresslab.techniques.quantizer import Quantized
from compresslab.techniques.sharing import shared_layers, unshared
from compresslab.techniques.weight_only import Codes

__all__ = ["ConversionError", "convert", "convert_dynamic"]


def convert(model: nn.Module | Codes) -> nn.Module:
    """What runs in the end: a network on the kernels where there is something for them, else a float copy.

    Args:
        model: what a technique left; not changed.

    Raises:
        ValueError: for something else than a network or codes.
        ConversionError: naming each part of a simulated integer or binary network that has no counterpart.
    """
    if isinstance(model, Codes):
        return convert_weights(model)
    if isinstance(model, Program | OnnxModel):
        return model
    check_open(model, "model")
    kinds = {type(m) for m in model.modules()}
    if Quantized in kinds:
        if not hasattr(model, "graph"):
            return _layer_by_layer(model)
        return convert_integers(model)
    if any(issubclass(kind, Binary) for kind in kinds):
        return _on_bits(model)
    if shared_layers(model):
        return unshared(model).eval()
    return plain_copy(model).eval()


def _layer_by_layer(model: nn.Module) -> nn.Module:
    try:
        return convert_layers(model)
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _on_bits(model: nn.Module) -> nn.Module:
    layers = [m for m in model.modules() if isinstance(m, Binary)]
    if not all(layer.config.activations and not layer.config.ternary for layer in layers):
        raise ConversionError(
            "model has binary or ternary weights on float activations, for which there is no kernel: "
            "binarize the activations as well, or quantize the float network to 2 or more bits"
        )
    try:
        return convert_xnor(model)
    except ConversionError:
        return with_xnor_layers(model)
