"""The phone's engine: one network in LiteRT in float32, float16 and int8, beside torch and our integers.

LiteRT (TensorFlow Lite's successor) has files and kernels of its own; its converter rounds and calibrates
by itself. It needs an environment of its own (`make litert`), since its converter asks for other versions
than the course's. Times are of one image at a time, which is what a phone does, on this processor and not
on a phone's.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

from compresslab.data import load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import disk_bytes, race_networks
from compresslab.models import VGGLike
from compresslab.runtime import litert
from compresslab.runtime.convert import convert
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

EPOCHS, TESTED = 5, 1_000


def run(seed: int, size: int) -> Rows:
    """One network in every form that is there.

    Raises:
        ModuleNotFoundError: without LiteRT's packages, with the command that installs them.
    """
    data = load("glyphs", train_size=size, seed=seed)
    network = grow(lambda: VGGLike(data, widths=(16, 32, 64)), data.train, EPOCHS, 0.2, seed)
    network = network.to(memory_format=torch.contiguous_format)
    ours = convert(quantize_post_training(network, QuantConfig(), data.train.x[:200]))
    found: dict[str, tuple[nn.Module, int]] = {
        "torch, float32": (network, disk_bytes(network)),
        "ours, int8": (ours, disk_bytes(ours)),
    }
    with tempfile.TemporaryDirectory() as folder:
        for width in litert.WIDTHS:
            path = Path(folder) / f"{width}.tflite"
            count = litert.export_litert(network, data.shape, path, width, data.train.x[:200])
            found[f"LiteRT, {width}"] = (litert.LiteRtModel(path), count)
        one = {name: model for name, (model, _) in found.items()}
        took = race_networks(one, data.test.x[:1])
        test = data.test.first(TESTED)
        return {
            name: {
                "file, kB": count / 1e3,
                "test accuracy, %": evaluate(model, test),
                "ms an image": 1e3 * took[name],
            }
            for name, (model, count) in found.items()
        }


def _apart(rows: Rows, name: str) -> float:
    return abs(rows[name]["test accuracy, %"] - rows["torch, float32"]["test accuracy, %"])


EXPERIMENT = Experiment(
    question="The same network in the engine of phones: files, accuracy, and the time of one image.",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "LiteRT's float32 and float16 files answer as torch does, to a fifth of a point",
            lambda r: 0.2 - max(_apart(r, f"LiteRT, {w}") for w in ("float32", "float16")),
            "points",
        ),
        Finding(
            "Its int8 file is more than three times smaller than its float32 one",
            lambda r: r["LiteRT, float32"]["file, kB"] / r["LiteRT, int8"]["file, kB"] - 3,
            "times",
        ),
        Finding(
            "For one image our int8, one compiled call as LiteRT's is, takes less than twice its time",
            lambda r: 2 - r["ours, int8"]["ms an image"] / r["LiteRT, int8"]["ms an image"],
            "times",
        ),
    ),
    note="Its batches hold one image; one thread, on this processor and not on a phone's.",
    digits=2,
)
