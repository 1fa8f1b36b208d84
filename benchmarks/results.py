"""Every technique on every data set: `python -m benchmarks.results --data mnist [--only NAME]`.

The VGG-like network on images of 16 by 16 (but for the depthwise and the binary row), and a row a
technique: bytes of the written file, multiply-accumulates, energy (45 nm, an estimate, and measured where the
processor's counters can be read), times faster than the float network (one thread, all raced in one run,
layout channels-last), test accuracy as mean ± sd over seeds, and what a paper says of the same technique on
its own network. Half precision, a cast alone, comes first.
Controls are rows like any other. The records go to docs/results/DATA.json, and docs/results.md is made from
all that lie there.

Settings are those of the labs and the same on every data set; nothing was tuned on test images.
"""

import copy
import dataclasses
import functools
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numba
import torch
import typer
from torch import nn
from tqdm import tqdm

from compresslab import models
from compresslab.data import Split, load
from compresslab.kernels.simd import instruction_set
from compresslab.measure import count_layers, deployed, energy_microjoules, joules, race_networks
from compresslab.runtime import files
from compresslab.runtime.program import Program
from compresslab.stages import Binary, CutChannels, LowRank, Material, Prune, Quantize, Share
from compresslab.techniques import sharing
from compresslab.techniques.binarize import XnorNet
from compresslab.techniques.distill import Distillation, cached
from compresslab.techniques.prune import KeepMask
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.scores import prunable
from compresslab.techniques.tickets import search, shuffled
from compresslab.training import evaluate, fit, seed_everything

RECORDS = Path(__file__).parents[1] / "docs" / "results"
DATA = ("glyphs", "mnist", "cifar10")
LONGER = "float32, trained as long as the tuned ones (control)"
SIZE, TRAIN, SEEDS = 16, 8_000, (0, 1, 2)
EPOCHS, TUNING, RATE = 6, 4, 0.15
THIN_RATE = 0.05  # two thin layers one behind the other diverge at the others' rate
WIDTHS = (32, 64, 128)
TICKET = (0.6, 0.36, 0.2)


class Bench:
    """One data set and one seed: the trained network, and what techniques begin with."""

    def __init__(self, data: Split, seed: int) -> None:
        self.data, self.seed = data, seed

    def build(
        self, kind: type[nn.Module] = models.VGGLike, widths: Sequence[int] = WIDTHS
    ) -> nn.Module:
        """A network with this seed's initial weights."""
        seed_everything(self.seed)
        network = kind(self.data.shape, len(self.data.classes), tuple(widths))
        return network.to(memory_format=torch.channels_last)

    def train(self, network: nn.Module, epochs: float, **options: object) -> nn.Module:
        """Train in place as the float network is."""
        settings = {"lr": RATE, "seed": self.seed, "progress": False} | options
        fit(network, self.data.train, epochs, **settings)
        return network

    @functools.cached_property
    def network(self) -> nn.Module:
        """The float network; stages copy it."""
        return self.train(self.build(), EPOCHS)

    def material(self, rate: float = RATE) -> Material:
        """What a stage of a pipeline may use."""
        return Material(self.data.train.x[:500], self.data.train, TUNING, rate, self.seed)

    @functools.cached_property
    def halved(self) -> nn.Module:
        """Half of every layer's channels, tuned; two rows begin with it."""
        return CutChannels(0.5)(self.network, self.material())

    @functools.cached_property
    def ticket(self) -> tuple[dict, object, nn.Module]:
        """The start, the mask and the trained winning ticket at a fifth of the weights."""
        start = {n: t.clone() for n, t in self.build().state_dict().items()}
        found = search(
            self.build, lambda n, hooks: self.train(n, EPOCHS, hooks=hooks), TICKET, start
        )
        *_, (_, mask, network) = found
        return start, mask, network


@dataclass(frozen=True)
class Technique:
    """A row: what makes the network, the lab that explains it, its epochs, and what a paper says.

    Attributes:
        epochs: of training, those of the network that it begins with included.
        against: the row that the paper's figure is to be compared with.
    """

    name: str
    lab: int
    make: Callable[[Bench], nn.Module]
    paper: str = ""
    epochs: str = str(EPOCHS + TUNING)
    against: str = "float32"


def _cast(kind: torch.dtype) -> Callable[[Bench], nn.Module]:
    return lambda bench: copy.deepcopy(bench.network).to(kind)


def _quantized(epochs: float = 0, **config: object) -> Callable[[Bench], nn.Module]:
    def make(bench: Bench) -> nn.Module:
        stage = Quantize(config=QuantConfig(**config), epochs=epochs)
        return stage(bench.network, bench.material())

    return make


def _ticket_by_chance(bench: Bench) -> nn.Module:
    start, mask, _ = bench.ticket
    network = bench.build()
    network.load_state_dict(start)
    mask = shuffled(mask, 1000 + bench.seed)
    return bench.train(network, EPOCHS, hooks=[KeepMask(mask)])


def _narrow(bench: Bench) -> nn.Module:
    return bench.build(widths=[w // 2 for w in WIDTHS])


def _student(bench: Bench) -> nn.Module:
    loss = Distillation(cached(bench.network, bench.data.train.x), 0.1, 4.0)
    return bench.train(_narrow(bench), EPOCHS + TUNING, loss=loss)


def _shared(bench: Bench) -> nn.Module:
    pruned = Prune(0.85)(bench.network, bench.material())
    return Share(15)(pruned, bench.material())


def _binary(bench: Bench) -> nn.Module:
    def build() -> nn.Module:
        return XnorNet(bench.data.shape, len(bench.data.classes))

    return Binary(build, EPOCHS + TUNING)(bench.network, bench.material())


FOUR = {"weight_bits": 4, "activation_bits": 4, "edge_bits": 8, "weight_range": "mse"}
TWO = FOUR | {"weight_bits": 2, "activation_bits": 2}
TECHNIQUES = [
    Technique("float32", 0, lambda b: b.network, epochs=str(EPOCHS)),
    Technique(
        LONGER,
        0,
        lambda b: b.train(b.build(), EPOCHS + TUNING),
    ),
    Technique("float16, a cast", 1, _cast(torch.float16), epochs=str(EPOCHS)),
    Technique("bfloat16, a cast", 1, _cast(torch.bfloat16), epochs=str(EPOCHS)),
    Technique(
        "int8 after training",
        2,
        _quantized(),
        "0.1 points lost (ResNet-18; Nagel et al. 2021, section 3.6)",
        str(EPOCHS),
    ),
    Technique(
        "4 bits, weights and activations, after training",
        2,
        _quantized(**FOUR),
        epochs=str(EPOCHS),
    ),
    Technique(
        "4 bits, one epoch through the quantizers (LSQ)",
        3,
        _quantized(1, **FOUR, learned=True),
        "0.6 points gained (ResNet-18; Esser et al. 2020, table 1)",
        str(EPOCHS + 1),
    ),
    Technique(
        "2 bits, one epoch through the quantizers (LSQ)",
        3,
        _quantized(1, **TWO, learned=True),
        "2.9 points lost (ResNet-18; Esser et al. 2020, table 1)",
        str(EPOCHS + 1),
    ),
    Technique(
        "85 % of the weights pruned, tuned",
        4,
        lambda b: Prune(0.85)(b.network, b.material()),
        "92 % without loss (LeNet-300-100; Han et al. 2015, table 1)",
    ),
    Technique("half the channels cut, tuned", 4, lambda b: b.halved),
    Technique(
        "half the width from scratch (control)",
        4,
        lambda b: b.train(_narrow(b), EPOCHS + TUNING),
        "as good as the cut one or better (Liu et al. 2019, table 1)",
        against="half the channels cut, tuned",
    ),
    Technique(
        "winning ticket, a fifth of the weights",
        5,
        lambda b: b.ticket[2],
        "as good as dense at 3.6 % (LeNet; Frankle and Carbin 2019, figure 3)",
        f"{(1 + len(TICKET)) * EPOCHS}, the search included",
    ),
    Technique("random ticket of that size (control)", 5, _ticket_by_chance, epochs=str(EPOCHS)),
    Technique(
        "low rank, half of the parameters, tuned",
        6,
        lambda b: LowRank(0.5)(b.network, b.material(rate=THIN_RATE)),
    ),
    Technique(
        "depthwise-separable network, from scratch",
        7,
        lambda b: b.train(b.build(models.DepthwiseNet, (32, 64, 96)), EPOCHS + TUNING),
        "1.1 points lost at 8.6 times fewer MACs (ImageNet; Howard et al. 2017, table 4)",
    ),
    Technique(
        "half the width, distilled",
        8,
        _student,
        "146 errors down to 74 of 10,000 (MNIST; Hinton et al. 2015, section 3)",
        f"{EPOCHS + TUNING}, and the teacher's {EPOCHS}",
        "half the width from scratch (control)",
    ),
    Technique(
        "binary weights and activations (XNOR)",
        10,
        _binary,
        "12.4 points lost (AlexNet; Rastegari et al. 2016, table 1)",
        f"{EPOCHS + TUNING}, and the teacher's {EPOCHS}",
    ),
    Technique(
        "85 % pruned, 15 shared values, Huffman-coded",
        12,
        _shared,
        "39 times smaller without loss (LeNet-5; Han et al. 2016, table 1)",
        str(EPOCHS + TUNING + 1),
    ),
    Technique(
        "half the channels, then int8",
        12,
        lambda b: Quantize(8)(b.halved, b.material()),
    ),
]


@dataclass(frozen=True)
class Row:
    """A technique on a data set: bytes, MACs, µJ, times faster than float32 at batch 1 and 64, accuracies."""

    technique: str
    lab: int
    paper: str
    bytes: int
    nonzeros: int
    macs: int
    energy: float
    times_faster: dict[str, float]
    accuracies: list[float]
    measured: float | None = None
    """Microjoules of an image in a batch of 64, by the processor's counters; None where none can be read."""


def _deployed(network: nn.Module) -> tuple[nn.Module, int]:
    """What would run, and the bytes of its file."""
    runs = deployed(network)
    if not isinstance(runs, Program):
        runs = runs.to(memory_format=torch.channels_last)
    return runs, files.size(network if sharing.shared_layers(network) else runs)


def run(name: str, seeds: Sequence[int], only: str | None, train: int) -> list[Row]:
    """All techniques on one data set, or float32 and one other."""
    benches = [Bench(load(name, SIZE, train, seed=0), seed) for seed in seeds]
    chosen = [t for t in TECHNIQUES if only is None or t.name in ("float32", only)]
    first, sizes, accuracies = {}, {}, {}
    for technique in tqdm(chosen, desc=name):
        for bench in benches:
            network, size = _deployed(technique.make(bench))
            accuracies.setdefault(technique.name, []).append(evaluate(network, bench.data.test))
            first.setdefault(technique.name, network)
            sizes.setdefault(technique.name, size)
    faster = _times_faster(first, benches[0].data)
    shape = benches[0].data.shape
    layers = {name: count_layers(network, shape) for name, network in first.items()}
    return [
        Row(
            t.name,
            t.lab,
            t.paper,
            sizes[t.name],
            _nonzeros(first[t.name]),
            sum(layer.macs for layer in layers[t.name]),
            energy_microjoules(layers[t.name], sizes[t.name]),
            faster[t.name],
            accuracies[t.name],
            measured_microjoules(first[t.name], benches[0].data.test.x[:64]),
        )
        for t in chosen
    ]


def measured_microjoules(network: nn.Module, images: torch.Tensor) -> float | None:
    """What one of these images takes, in microjoules; None where no counter can be read."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        taken = joules(lambda: network(images))
    return None if taken is None else 1e6 * taken / len(images)


def _nonzeros(network: nn.Module) -> int:
    return sum(int(layer.weight.count_nonzero()) for layer in prunable(network).values())


def _times_faster(networks: dict[str, nn.Module], data: Split) -> dict[str, dict[str, float]]:
    faster: dict[str, dict[str, float]] = {name: {} for name in networks}
    for batch in (1, 64):
        x = data.test.x[:batch].contiguous(memory_format=torch.channels_last)
        seconds = race_networks(networks, x)
        for name, took in seconds.items():
            faster[name][str(batch)] = seconds["float32"] / took
    return faster


def machine() -> dict[str, str]:
    """What the figures depend on beside the code."""
    return {
        "processor": f"{platform.machine()}, {instruction_set()}, {os.cpu_count()} cores",
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "numba": numba.__version__,
    }


def main(
    data: Annotated[str, typer.Option(help=f"one of {', '.join(DATA)}")] = "glyphs",
    only: Annotated[str | None, typer.Option(help="one row, beside float32")] = None,
    seeds: Annotated[int, typer.Option(help="how many", min=1)] = len(SEEDS),
    train: Annotated[int, typer.Option(help="training images", min=100)] = TRAIN,
    out: Annotated[Path, typer.Option(help="folder of the records")] = RECORDS,
) -> None:
    """Run the techniques on one data set; keep the records and write docs/results.md anew."""
    from benchmarks.page import results_table, write_results

    names = [t.name for t in TECHNIQUES]
    if data not in DATA:
        raise typer.BadParameter(f"--data must be one of {', '.join(DATA)}, got {data!r}")
    if only is not None and only not in names:
        raise typer.BadParameter(f"--only must be one of {'; '.join(names)}, got {only!r}")
    torch.set_num_threads(1)
    rows = run(data, range(seeds), only, train)
    record = {
        "data": data,
        "machine": machine(),
        "seeds": seeds,
        "train": train,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    typer.echo(results_table(record))
    target = out / f"{data}.json"
    if only is not None and target.is_file():
        record = _with_row(json.loads(target.read_text(encoding="utf-8")), record)
    if len(record["rows"]) == len(TECHNIQUES):
        out.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_results(out)


def _with_row(record: dict, new: dict) -> dict:
    """The record with its row measured anew; as it is if it was made otherwise."""
    if any(record[key] != new[key] for key in ("machine", "seeds", "train")):
        return record
    row = new["rows"][-1]
    rows = [row if row["technique"] == r["technique"] else r for r in record["rows"]]
    return record | {"rows": rows}


def mean_and_sd(accuracies: Sequence[float]) -> tuple[float, float]:
    """Over seeds; the sd is NaN for one."""
    sd = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
    return statistics.fmean(accuracies), sd


if __name__ == "__main__":
    typer.run(main)
