"""torch's own quantization-aware training beside ours, at 8 bits: prepare, train, convert.

An article trains through `prepare_qat`. torch's graph mode (`prepare_qat_fx`, deprecated as the whole of
`torch.ao.quantization` is) puts fake quantizers in, whose ranges follow moving averages while the network
trains; ours start from the calibrated ranges of `ptq`. Both fine-tune copies of one trained network for an
epoch and are then made integers: torch's by `convert_fx`, ours by `convert`. Controls: the floats trained as
long, and both engines after training only (PTQ).
"""

import copy

import torch
from torch import nn

from compresslab.data import Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, reached, train
from compresslab.models import VGGLike
from compresslab.runtime import peers
from compresslab.runtime.convert import convert
from compresslab.runtime.export import quietly
from compresslab.techniques import qat
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

EPOCHS, TUNING, RATE, CALIBRATION = 5, 1, 0.02, 200


def run(seed: int, size: int) -> Rows:
    """One trained network; in integers by both, with and without training through the quantizers."""
    data = load("glyphs", train_size=size, seed=seed)
    floats = grow(lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed)
    images, config = data.train.x[:CALIBRATION], QuantConfig(8, 8)
    longer = train(copy.deepcopy(floats), data.train, TUNING, RATE, seed)
    tuned = qat.tune(floats, config, data.train, TUNING, RATE, seed=seed, progress=False)
    networks = {
        "floats": floats,
        "floats, an epoch more": longer,
        "ours, not trained": convert(quantize_post_training(floats, config, images)),
        "ours, an epoch": convert(tuned),
        "torch's, not trained": peers.torch_int8(floats, images),
        "torch's, an epoch": _by_torch(floats, data, seed),
    }
    return {name: {"test accuracy, %": evaluate(n, data.test)} for name, n in networks.items()}


def _by_torch(floats: nn.Module, data: Split, seed: int) -> nn.Module:
    with quietly():
        from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx

        torch.backends.quantized.engine = "x86"
        network = copy.deepcopy(floats).to(memory_format=torch.contiguous_format).train()
        mapping = get_default_qat_qconfig_mapping("x86")
        prepared = quantize_fx.prepare_qat_fx(network, mapping, (data.train.x[:1],))
        train(prepared, data.train, TUNING, RATE, seed)
        return quantize_fx.convert_fx(prepared.eval())


EXPERIMENT = Experiment(
    question="Training through 8-bit quantizers by torch's own call: is it another result?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Trained through either's quantizers, both integer networks are within a point of each other",
            lambda r: 1 - abs(reached(r, "ours, an epoch") - reached(r, "torch's, an epoch")),
            "points",
        ),
        Finding(
            "At 8 bits neither is more than a point better than the floats trained as long",
            lambda r: (
                1
                + reached(r, "floats, an epoch more")
                - max(reached(r, "ours, an epoch"), reached(r, "torch's, an epoch"))
            ),
            "points",
        ),
    ),
)
