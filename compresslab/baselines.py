"""Trained starts: the networks that labs begin with where training them is not the subject.

    networks = trained("vgg", data, SEEDS)          # read from the package, or trained if need be

Labs 00 to 04, 06, 08, 10 and 12 compress a network that is there. It is carried in `checkpoints/`, so
that every machine begins with the same weights and nobody waits for it; `compresslab checkpoint` trains
all of them anew. (Lab 07 compares how architectures learn, so there all training is live.)

    baseline          network                           images   epochs   labs
    mlp               MLP                               8,000    10       00, 04, 06
    vgg               VGG-like, 16 32 64                8,000    4        00, 01, 02, 03
    depthwise         depthwise, 32 64 96               8,000    4        02
    depthwise-small   depthwise, 16 32 48               8,000    4        00
    vgg-wide          VGG-like, 32 64 96                3,000    5        04, 06
    vgg-wider         VGG-like, 32 64 128               4,000    6        10
    vgg-combine       VGG-like, 32 64 128               3,000    8        12
    teacher           ResNet-8, one seed                 6,500    5        08
    modest-teacher    VGG-like, 12 24 48, one seed       6,500    4        08

A file holds float32 weights under "seed 0.layer.weight" and, in its metadata, how they came to be: each
seed's accuracy and the SHA-256 of its weights, which is compared when they are read. On other data, for
other seeds (COMPRESSLAB_SEED) or with fresh=True the same recipe trains live.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab import models
from compresslab.data import DEFAULT, Examples, Split, load
from compresslab.experiment import built, fit_all
from compresslab.language import translated
from compresslab.training import evaluate
from compresslab.writing import write_whole

FOLDER = Path(__file__).with_name("checkpoints")


@dataclass(frozen=True)
class Baseline:
    """How a start is made: network, training images (of those loaded, the first), epochs, rate, seeds."""

    make: Callable[[Split], nn.Module]
    loaded: int
    first: int
    epochs: float
    lr: float
    seeds: tuple[int, ...] = (0, 1, 2)

    def data(self) -> Split:
        """The data set that the carried weights were trained on."""
        return load(DEFAULT, size=16, train_size=self.loaded)

    def train(self, data: Split, seeds: Sequence[int], label: str) -> list[nn.Module]:
        """Fresh networks, trained on this data set by the recipe."""
        networks = built(lambda: self.make(data), seeds)
        examples = data.train.first(self.first)
        return fit_all(networks, examples, self.epochs, self.lr, seeds=seeds, label=label)


def _vgg(*widths: int) -> Callable[[Split], nn.Module]:
    return lambda data: models.VGGLike(data.shape, len(data.classes), widths)


def _depthwise(*widths: int) -> Callable[[Split], nn.Module]:
    return lambda data: models.DepthwiseNet(data.shape, len(data.classes), widths)


BASELINES = {
    "mlp": Baseline(lambda data: models.MLP(data.shape, len(data.classes)), 8_000, 8_000, 10, 0.1),
    "vgg": Baseline(_vgg(16, 32, 64), 8_000, 8_000, 4, 0.2),
    "depthwise": Baseline(_depthwise(32, 64, 96), 8_000, 8_000, 4, 0.2),
    "depthwise-small": Baseline(_depthwise(16, 32, 48), 8_000, 8_000, 4, 0.2),
    "vgg-wide": Baseline(_vgg(32, 64, 96), 8_000, 3_000, 5, 0.2),
    "vgg-wider": Baseline(_vgg(32, 64, 128), 4_000, 4_000, 6, 0.2),
    "vgg-combine": Baseline(_vgg(32, 64, 128), 3_000, 3_000, 8, 0.2),
    "teacher": Baseline(
        lambda data: models.ResNet8(data.shape, len(data.classes)), 8_000, 6_500, 5, 0.2, (0,)
    ),
    "modest-teacher": Baseline(_vgg(12, 24, 48), 8_000, 6_500, 4, 0.2, (0,)),
}


# ---- reading -------------------------------------------------------------------------------------
def trained(
    name: str, data: Split, seeds: Sequence[int], fresh: bool = False, folder: Path = FOLDER
) -> list[nn.Module]:
    """Trained networks of a baseline, one for each seed, in evaluation mode; says where they come from.

    Args:
        name: a key of BASELINES.
        data: the lab's data set.
        seeds: of weights and batches.
        fresh: train even where the package carries the weights.
        folder: where the files are.

    Returns:
        Networks with channels last in memory.

    Raises:
        ValueError: for an unknown name, or a file whose weights are not those that were recorded.
        FileNotFoundError: if the file is missing, with the command that makes it.
    """
    baseline = baseline_of(name)
    carried = data.name == DEFAULT and len(data.train) == baseline.loaded
    if fresh or not carried or not set(seeds) <= set(baseline.seeds):
        said = f"{name}: trained here, {len(seeds)} seed(s), {baseline.epochs:g} epochs"
        print(translated(said))
        return baseline.train(data, seeds, name)
    networks = [read(name, data, seed, folder) for seed in seeds]
    said = (
        f"{name}: {len(seeds)} trained network(s) that the package carries "
        f"({baseline.epochs:g} epochs of {min(baseline.first, len(data.train)):,} images; "
        "fresh=True trains them here)"
    )
    print(translated(said))
    return networks


def baseline_of(name: str) -> Baseline:
    """A baseline by its name.

    Raises:
        ValueError: if there is none.
    """
    if name not in BASELINES:
        raise ValueError(f"name must be one of {', '.join(BASELINES)}, got {name!r}")
    return BASELINES[name]


def read(name: str, data: Split, seed: int, folder: Path = FOLDER) -> nn.Module:
    """One carried network; raises as `trained` does."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: make it by `compresslab checkpoint {name}`")
    prefix = f"seed {seed}."
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["made"])["seeds"][str(seed)]
        state = {
            key.removeprefix(prefix): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118
            if key.startswith(prefix)
        }
    if fingerprint(state) != record["sha256"]:
        raise ValueError(f"{path} holds other weights for seed {seed} than were recorded")
    network = baseline_of(name).make(data)
    network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last).eval()


def facts(name: str, folder: Path = FOLDER) -> dict[str, object]:
    """How a file came to be: images, epochs, rate, and each seed's accuracy and hash."""
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["made"])


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names and values, in the order of the names; memory layout does not count."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- making --------------------------------------------------------------------------------------
def make(name: str, folder: Path = FOLDER) -> dict[str, object]:
    """Train a baseline's networks and write their file.

    Returns:
        The facts that the file carries.

    Raises:
        ValueError: for an unknown name.
    """
    baseline = baseline_of(name)
    data = baseline.data()
    networks = baseline.train(data, baseline.seeds, name)
    tensors, seeds = {}, {}
    for seed, network in zip(baseline.seeds, networks, strict=True):
        state = {n: t.detach().contiguous().clone() for n, t in network.state_dict().items()}
        tensors |= {f"seed {seed}.{n}": t for n, t in state.items()}
        seeds[str(seed)] = _reached(network, data.test, state)
    made = {
        "images": min(baseline.first, baseline.loaded),
        "epochs": baseline.epochs,
        "rate": baseline.lr,
        "torch": torch.__version__,
        "seeds": seeds,
    }
    path = folder / f"{name}.safetensors"
    about = {"made": json.dumps(made)}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=about))
    path.chmod(0o644)
    return made


def _reached(
    network: nn.Module, test: Examples, state: dict[str, torch.Tensor]
) -> dict[str, object]:
    return {"test accuracy, %": round(evaluate(network, test), 3), "sha256": fingerprint(state)}
