"""A network of integers on trial, before anything is trained: it must compute what its simulation does.

Simulated integers compute with torch's own layers, so they follow the network whatever it does. The integer
network is built from what is known of each operation. On one example both must agree but for rounding; where
they do not, something was taken for what it is not.
"""

from dataclasses import replace

import torch
from torch import nn

from compresslab.network.normal import flat_outputs
from compresslab.runtime.integers.convert import convert_integers
from compresslab.runtime.integers.known import ConversionError, refuse_unknown
from compresslab.techniques.ptq import calibrate, prepare
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluating

FAR = 0.5
"""The root mean square of the difference, of that of the answers: rounding makes some hundredths of it."""


def try_integers(model: nn.Module, config: QuantConfig, example: torch.Tensor) -> None:
    """Convert a network that was calibrated on the example alone, and hold it against its simulation.

    Args:
        model: a float network; not changed.
        config: of which the number of bits does not matter here.
        example: a batch that the network takes; its first few are taken.

    Raises:
        ConversionError: naming what has no integer counterpart, or that the two do not agree.
    """
    few = example[:2]
    plain = {
        "weight_range": "minmax",
        "activation_range": "minmax",
        "edge_bits": None,
        "layers": {},
    }
    bits = {"weight_bits": 8, "activation_bits": config.activation_bits and 8}
    prepared = prepare(model, replace(config, **plain, **bits), few)
    refuse_unknown(prepared)
    simulated = calibrate(prepared, few)
    program = convert_integers(simulated)
    with torch.no_grad(), evaluating(simulated):
        wanted = flat_outputs(simulated(few)).double()
        try:
            found = flat_outputs(program(few)).double()
        except Exception as error:  # of a kernel that was given what it does not take
            raise ConversionError(
                f"the integer network does not run: {error}; {WAY_OUT}"
            ) from error
    if wanted.shape != found.shape:
        raise ConversionError(
            f"the integer network answers {list(found.shape)} where the network answers "
            f"{list(wanted.shape)}; {WAY_OUT}"
        )
    # Against what the answers differ by; a network with one answer has its size alone.
    spread = max(
        float((wanted - wanted.mean()).square().mean()), 0.01 * float(wanted.square().mean())
    )
    if float((found - wanted).square().mean()) > FAR**2 * spread + 1e-12:
        raise ConversionError(
            f"the integer network computes something else than its simulation; {WAY_OUT}"
        )


WAY_OUT = (
    "some operation is taken for what it is not: convert_dynamic and weight_only.quantize take the network "
    "layer by layer"
)
