"""Which networks bear quantization? Seven kinds on one scale, and which layer is to blame.

All are treated alike: weights by channel, each layer's input by tensor with the range that it has at that
moment, nothing calibrated, nothing tuned. The loss is in points of accuracy, for the language model in
points of right next tokens. W8A4 has few bits for the activations alone: 8 bits for weights cost nothing.
To see which layer is to blame, the weights of one layer at a time are put at 4 bits: of the first, of the
last, and of the one between them that costs most.

The articles call VGG and MobileNet friendly, and Transformers, recurrent, very small and depthwise networks
sensitive: MobileNet stands on both lists.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import corpus, keywords, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import BiLSTM, DepthwiseNet, ResNet8, VGGLike
from compresslab.network.recurrent import unrolled
from compresslab.techniques import scores
from compresslab.techniques.ptq import prepare_layers, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig, WeightQuantizer
from compresslab.training import evaluate

WIDTHS = ((8, 8), (4, 8), (8, 4), (4, 4))
EPOCHS, TEXT_EPOCHS, RATE = 5, 4, 0.004


@dataclass(frozen=True)
class Subject:
    """A trained network, how good it is, and how it is simulated in integers."""

    network: nn.Module
    quality: Callable[[nn.Module], float]
    simulated: Callable[[nn.Module, QuantConfig], nn.Module]


def run(seed: int, size: int) -> Rows:
    """Every network at every width."""
    rows = {}
    for name, subject in subjects(seed, size).items():
        base = subject.quality(subject.network)
        row = {"floats, %": base}
        for weights, activations in WIDTHS:
            simulated = subject.simulated(
                subject.network, QuantConfig(weights, activations, dynamic=True)
            )
            row[f"W{weights}A{activations}, points lost"] = base - subject.quality(simulated)
        lost = [base - subject.quality(one) for one in _one_layer_each(subject.network)]
        row["first layer alone at W4, points lost"] = lost[0]
        row["the worst between"] = max(lost[1:-1])
        row["last layer"] = lost[-1]
        rows[name] = row
    return rows


def subjects(seed: int, size: int) -> dict[str, Subject]:
    """Four networks for images, two for keywords, one for text; the last is the package's own."""
    images = load("glyphs", train_size=size, seed=seed)
    windows = keywords.load(train_size=size, seed=seed)
    kinds = {
        "VGG-like": lambda: VGGLike(images, widths=(16, 32, 64)),
        "residual (ResNet-8)": lambda: ResNet8(images),
        "depthwise (MobileNet's kind)": lambda: DepthwiseNet(images),
        "very small (4, 8, 16 channels)": lambda: VGGLike(images, widths=(4, 8, 16)),
    }
    found = {}
    for name, make in kinds.items():
        network = grow(make, images.train, EPOCHS, 0.2, seed)
        found[name] = Subject(
            network,
            lambda model: evaluate(model, images.test),
            lambda model, config: quantize_post_training(model, config, images.train.x[:200]),
        )
    readers = {
        "Transformer (encoder)": lambda: pretrained.keyword_encoder(width=64, layers=3),
        "recurrent (BiLSTM)": lambda: BiLSTM(
            keywords.WORDS, len(keywords.CLASSES), 48, 64, keywords.BEFORE
        ),
    }
    for name, make in readers.items():
        network = grow(
            make,
            *(windows.train, TEXT_EPOCHS, RATE, seed),
            batch_size=64,
            optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
        )
        found[name] = Subject(
            unrolled(network), lambda model: evaluate(model, windows.test), prepare_layers
        )
    passages = corpus.load("python", "test", 40_000).some(max(2, min(size // 60, 64)), seed)
    found["language model (GPT)"] = Subject(
        pretrained.language_model(), lambda model: _next_tokens(model, passages), prepare_layers
    )
    return found


@torch.no_grad()
def _next_tokens(model: nn.Module, passages: corpus.Passages) -> float:
    """Right next tokens in per cent."""
    right = [
        (model(x).argmax(2) == y).double().mean(1)
        for x, y in zip(passages.x.split(16), passages.y.split(16), strict=True)
    ]
    return 100 * float(torch.cat(right).mean())


def _one_layer_each(network: nn.Module) -> list[nn.Module]:
    """Copies of the network, in each of which one layer's weight is at 4 bits."""
    found = []
    for name in scores.prunable(network):
        one = copy.deepcopy(network)
        layer = one.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(WeightQuantizer(layer.weight, 4, QuantConfig(4))(layer.weight))
        found.append(one)
    return found


CONVOLUTIONAL = (
    "VGG-like",
    "residual (ResNet-8)",
    "depthwise (MobileNet's kind)",
    "very small (4, 8, 16 channels)",
)
READERS = ("Transformer (encoder)", "recurrent (BiLSTM)")
EIGHT, FOUR = "W8A8, points lost", "W4A4, points lost"


def _worst(row: dict[str, float]) -> float:
    alone = ("first layer alone at W4, points lost", "the worst between", "last layer")
    return max(row[name] for name in alone)


EXPERIMENT = Experiment(
    question=(
        "Convolutional, residual, depthwise, very small, a Transformer, a recurrent one: "
        "which bears few bits?"
    ),
    run=run,
    size=4_000,
    findings=(
        Finding(
            "At 8 bits none of the seven loses two points",
            lambda r: 2 - max(row[EIGHT] for row in r.values()),
            "points",
        ),
        Finding(
            "At W4A4 the encoder and the BiLSTM, called sensitive, lose less than any of the "
            "four convolutional networks",
            lambda r: min(r[n][FOUR] for n in CONVOLUTIONAL) - max(r[n][FOUR] for n in READERS),
            "points",
        ),
        Finding(
            "The depthwise and the very small network lose more at W4A4 than the VGG-like one, on average",
            lambda r: sum(r[n][FOUR] for n in CONVOLUTIONAL[2:]) / 2 - r["VGG-like"][FOUR],
            "points",
        ),
        Finding(
            "Few bits for the activations alone (W8A4) cost the language model more than few bits for its "
            "weights alone (W4A8)",
            lambda r: (
                r["language model (GPT)"]["W8A4, points lost"]
                - r["language model (GPT)"]["W4A8, points lost"]
            ),
            "points",
        ),
        Finding(
            "No layer of the encoder or the BiLSTM is to blame: none alone, at 4 bits, costs half a point",
            lambda r: 0.5 - max(_worst(r[n]) for n in READERS),
            "points",
        ),
        Finding(
            "Nor is one in the convolutional networks: all together lose more than the worst, on average",
            lambda r: sum(r[n]["W4A8, points lost"] - _worst(r[n]) for n in CONVOLUTIONAL) / 4,
            "points",
        ),
        Finding(
            "The language model loses more than 5 points more than the encoder: Transformers differ",
            lambda r: r["language model (GPT)"][FOUR] - r[READERS[0]][FOUR] - 5,
            "points",
        ),
    ),
    note="One layer alone: its weights at 4 bits, all else in floats; the language model has no own head.",
)
