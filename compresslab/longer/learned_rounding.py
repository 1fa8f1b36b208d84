"""Which way to round: to the nearest code, or as the layer's output asks (AdaRound)?

Nagel et al. (2020) bring the weights of ResNets to 4 bits within a point of float on ImageNet, without
labels. Here weights have 4, 3 and 2 bits, and 8 in the first and the last layer, activations 8: rounded to
nearest, the same with corrected biases, learned roundings with corrected biases, and as a control that has
labels and moves the weights an epoch of training through the quantizers.
"""

import time

from torch import nn

from compresslab.data import Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import DepthwiseNet, VGGLike
from compresslab.techniques import qat
from compresslab.techniques.adaround import learn_rounding
from compresslab.techniques.ptq import corrected, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

EPOCHS, RATE, BITS = 5, 0.2, (4, 3, 2)


def run(seed: int, size: int) -> Rows:
    """Two networks at three widths, four ways."""
    data = load("glyphs", train_size=size, seed=seed)
    networks = {
        "VGG-like": grow(
            lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, RATE, seed
        ),
        "depthwise": grow(lambda: DepthwiseNet(data), data.train, EPOCHS, RATE, seed),
    }
    rows = {}
    for name, network in networks.items():
        base = evaluate(network, data.test)
        rows[f"{name}, floats"] = {"test accuracy, %": base, "points lost": 0.0, "seconds": 0.0}
        for bits in BITS:
            for way, (small, seconds) in _ways(network, data, bits, seed).items():
                reached = evaluate(small, data.test)
                rows[f"{name}, {bits} bits, {way}"] = {
                    "test accuracy, %": reached,
                    "points lost": base - reached,
                    "seconds": seconds,
                }
    return rows


def _ways(
    network: nn.Module, data: Split, bits: int, seed: int
) -> dict[str, tuple[nn.Module, float]]:
    """The network by each way, and the seconds that it took beyond rounding to nearest."""
    config = QuantConfig(bits, 8, weight_range="mse", edge_bits=8)
    images = data.train.x[:500]
    nearest = quantize_post_training(network, config, images)
    ways = {
        "biases corrected": lambda: corrected(nearest, network, images),
        "learned rounding": lambda: corrected(
            learn_rounding(nearest, network, images, seed=seed, progress=False), network, images
        ),
        "an epoch of training": lambda: qat.tune(
            network, config, data.train, 1, seed=seed, progress=False
        ),
    }
    found = {"nearest": (nearest, 0.0)}
    for way, make in ways.items():
        started = time.process_time()
        found[way] = make(), time.process_time() - started
    return found


def _lost(rows: Rows, bits: int, way: str, name: str = "depthwise") -> float:
    return rows[f"{name}, {bits} bits, {way}"]["points lost"]


EXPERIMENT = Experiment(
    question="To the nearest code, or as the layer's output asks?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "At 2 bits the depthwise network keeps more than five points more by learned rounding than by "
            "corrected biases",
            lambda r: _lost(r, 2, "biases corrected") - _lost(r, 2, "learned rounding") - 5,
            "points",
        ),
        Finding(
            "At 3 bits learned rounding costs less than two points in both networks",
            lambda r: (
                2 - max(_lost(r, 3, "learned rounding", n) for n in ("VGG-like", "depthwise"))
            ),
            "points",
        ),
    ),
    note="500 images without labels; weights in steps of mean square error, activations in 8 bits.",
)
