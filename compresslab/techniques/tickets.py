"""The lottery ticket hypothesis (彩票假设; Frankle and Carbin 2019, https://arxiv.org/abs/1803.03635).

    A dense network contains a subnetwork that, trained alone *from its own initial weights*,
    matches the dense one in at most as many steps.

Found by iterative magnitude pruning: (1) initialise, (2) train, (3) remove the smallest weights that are
left, (4) rewind the others to where they started, (5) repeat. What the ticket owes to its mask and what
to its initial weights, controls tell:

    winning          the mask, the own initial weights
    rewound          the mask, the weights after a few steps of the dense training (Frankle et al. 2020,
                     https://arxiv.org/abs/1912.05671)
    signs            the mask, the own initial signs at one magnitude a layer (Zhou et al. 2019,
                     https://arxiv.org/abs/1905.01067)
    reinitialised    the mask, new initial weights
    random           a random mask with as many weights in each layer, the own initial weights

One `Trial` is one seed: the search, and every variant on the masks it finds. It fills one file, so that many
run side by side on any `concurrent.futures.Executor`, and an interrupted set goes on with what is missing.
"""

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from compresslab import models
from compresslab.data import Split, load
from compresslab.progress_bar import Bar
from compresslab.techniques.prune import KeepMask, Mask, select
from compresslab.techniques.scores import magnitude, prunable
from compresslab.training import Hook, Run, evaluate, fit, seed_everything
from compresslab.writing import write_whole

VARIANTS = ("winning", "rewound", "signs", "reinitialised", "random")
Results = dict[str, list[tuple[float, float]]]
"""By variant: (share of weights left, test accuracy in per cent); "dense" has the share 1."""


@dataclass(frozen=True)
class Trial:
    """One seed, with all variants on the same masks.

    Attributes:
        seed: of the weights, the batches and the random masks.
        remaining: shares of the weights left at which tickets are trained and tested, falling.
        variants: some of VARIANTS.
        dataset: name for `load`.
        size: image size.
        train_size: training images.
        network: a class of `models` by name.
        epochs: of every training.
        lr: of every training.
        rewind: epochs of dense training to which "rewound" goes back.
        data_seed: of the data set, the same for all trials that are compared.

    Raises:
        ValueError: for unknown variants, or shares that do not fall within 0..1.
    """

    seed: int
    remaining: tuple[float, ...]
    variants: tuple[str, ...] = ("winning", "reinitialised", "random")
    dataset: str = "glyphs"
    size: int = 16
    train_size: int = 10_000
    network: str = "MLP"
    epochs: float = 4
    lr: float = 0.1
    rewind: float = 0.25
    data_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        if not self.variants or not set(self.variants) <= set(VARIANTS):
            raise ValueError(f"variants must be some of {', '.join(VARIANTS)}, got {self.variants}")
        shares = [1.0, *self.remaining]
        if not self.epochs > 0 or not self.rewind > 0:
            raise ValueError(f"epochs and rewind must be > 0, got {self.epochs} and {self.rewind}")
        if "rewound" in self.variants and self.rewind > self.epochs:
            raise ValueError(f"rewind must be at most {self.epochs} epochs, got {self.rewind}")
        if any(not 0 < b < a for a, b in itertools.pairwise(shares)):
            raise ValueError(f"remaining must fall from below 1 to above 0, got {self.remaining}")

    @property
    def file_name(self) -> str:
        """A name of its own for every set of values."""
        values = json.dumps(asdict(self), sort_keys=True)
        return f"seed-{self.seed}-{hashlib.sha256(values.encode()).hexdigest()[:12]}.json"


def search(
    build: Callable[[], nn.Module],
    train: Callable[[nn.Module, Sequence[Hook]], None],
    remaining: Sequence[float],
    start: dict[str, torch.Tensor],
) -> Iterator[tuple[float, Mask | None, nn.Module]]:
    """Iterative magnitude pruning: (share left, mask, the network trained with it), the dense one first.

    Args:
        build: makes the network.
        train: trains it in place with hooks.
        remaining: shares left after each round, falling.
        start: the state to which every round rewinds.
    """
    mask, network = None, build()
    for share in (1.0, *remaining):
        if share < 1:
            mask = next_mask(network, mask, share)
        network = build()
        network.load_state_dict(start)
        train(network, [KeepMask(mask)] if mask else [])
        yield share, mask, network


def next_mask(network: nn.Module, mask: Mask | None, remaining: float) -> Mask:
    """Keep a share of all weights: the largest of those that are left."""
    scores = magnitude(network)
    if mask is not None:
        # What is gone stays gone, whatever its score.
        scores = {n: torch.where(mask.keep[n], s, -1.0) for n, s in scores.items()}
    return select(scores, 1 - remaining)


def shuffled(mask: Mask, seed: int) -> Mask:
    """A random mask with as many weights in each layer."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, kept in mask.keep.items():
        order = torch.randperm(kept.numel(), generator=generator)
        keep[name] = kept.flatten()[order].reshape(kept.shape)
    return Mask(keep)


@torch.no_grad()
def with_signs_only(
    state: dict[str, torch.Tensor], names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """Each weight's sign times the layer's root mean square."""
    state = {name: value.clone() for name, value in state.items()}
    for name in names:
        weight = state[f"{name}.weight"]
        weight.copy_(torch.sign(weight) * weight.square().mean().sqrt())
    return state


def mask_distance(one: Mask, other: Mask) -> float:
    """The share of weights on which two masks differ (Hamming distance; You et al. 2020, Early-Bird).

    Raises:
        ValueError: if they are not of the same layers.
    """
    shapes = [{n: tuple(k.shape) for n, k in mask.keep.items()} for mask in (one, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"other must have one's layers {shapes[0]}, got {shapes[1]}")
    different = sum(int((one.keep[n] ^ other.keep[n]).sum()) for n in one.keep)
    return different / sum(k.numel() for k in one.keep.values())


class EarlyBird(Hook):
    """Stop looking when the ticket is found: the mask of each epoch, and when it has settled.

    Settled means that the last `patience` distances are all below `limit` (You et al. 2020,
    https://arxiv.org/abs/1909.11957, section 3.2; there with channels and a limit of 0.1).
    """

    def __init__(self, remaining: float, limit: float = 0.1, patience: int = 3) -> None:
        """Args: share of weights in the ticket, the limit, how many distances in a row."""
        self.remaining, self.limit, self.patience = remaining, limit, patience
        self.masks: list[Mask] = []
        self.distances: list[float] = []
        self.found: int | None = None

    def before_training(self, run: Run) -> None:
        """Forget the masks of an earlier training."""
        self.masks, self.distances, self.found = [], [], None

    def after_epoch(self, run: Run) -> None:
        """Draw the mask and compare it with the last."""
        self.masks.append(next_mask(run.model, None, self.remaining))
        if len(self.masks) > 1:
            self.distances.append(mask_distance(*self.masks[-2:]))
        recent = self.distances[-self.patience :]
        if self.found is None and len(recent) == self.patience and max(recent) < self.limit:
            self.found = run.epoch


def run_trial(trial: Trial) -> Results:
    """The dense network and every ticket of one seed."""
    t = trial
    data = load(t.dataset, size=t.size, train_size=t.train_size, seed=t.data_seed)
    return _Laboratory(trial, data).run()


class _Laboratory:
    """What the variants of a trial share: the data, the start, the training."""

    def __init__(self, trial: Trial, data: Split) -> None:
        self.trial, self.data = trial, data
        seed_everything(trial.seed)
        self.start = copy.deepcopy(self.build().state_dict())

    def build(self) -> nn.Module:
        return getattr(models, self.trial.network)(self.data.shape, len(self.data.classes))

    def train(self, network: nn.Module, hooks: Sequence[Hook] = ()) -> None:
        t = self.trial
        fit(network, self.data.train, t.epochs, t.lr, hooks=hooks, seed=t.seed, progress=False)

    def run(self) -> Results:
        """The search is the winning ticket's own training; the others train once a mask."""
        results: Results = {"dense": []}
        for share, mask, network in self.search_from(self.start):
            accuracy = evaluate(network, self.data.test)
            results.setdefault("winning" if mask else "dense", []).append((share, accuracy))
            for kind in self.trial.variants if mask else ():
                if kind not in ("winning", "rewound"):
                    results.setdefault(kind, []).append((share, self.accuracy_of(kind, mask)))
        if "rewound" in self.trial.variants:
            found = list(self.search_from(self.rewound()))[1:]
            results["rewound"] = [(s, evaluate(n, self.data.test)) for s, _, n in found]
        return {kind: results[kind] for kind in ("dense", *self.trial.variants)}

    def search_from(
        self, state: dict[str, torch.Tensor]
    ) -> Iterator[tuple[float, Mask | None, nn.Module]]:
        return search(self.build, self.train, self.trial.remaining, state)

    def rewound(self) -> dict[str, torch.Tensor]:
        """The state after the first part of the dense training."""
        network = self.build()
        network.load_state_dict(self.start)
        snapshot = _Snapshot(self.trial.rewind / self.trial.epochs)
        self.train(network, [snapshot])
        return snapshot.state

    def accuracy_of(self, kind: str, mask: Mask) -> float:
        network, mask = self.control(kind, mask)
        self.train(network, [KeepMask(mask)])
        return evaluate(network, self.data.test)

    def control(self, kind: str, mask: Mask) -> tuple[nn.Module, Mask]:
        """The network and the mask from which a control starts."""
        if kind == "reinitialised":
            seed_everything(self.trial.seed + 10_000)
            return self.build(), mask
        network = self.build()
        state = self.start
        if kind == "signs":
            state = with_signs_only(state, prunable(network))
        network.load_state_dict(state)
        return network, shuffled(mask, self.trial.seed) if kind == "random" else mask


class _Snapshot(Hook):
    """Keep the weights of one moment."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.state: dict[str, torch.Tensor] = {}

    def after_step(self, run: Run) -> None:
        if run.step + 1 == max(1, round(self.share * run.steps)):
            self.state = copy.deepcopy(run.model.state_dict())


def run_all(
    trials: Sequence[Trial],
    folder: Path,
    executor: Executor,
    label: str = "tickets",
    progress: bool = True,
) -> dict[Trial, Results]:
    """Every trial's results, those already in the folder read and the others run on the executor.

    Args:
        trials: what to run.
        folder: one JSON file a trial; made if it is not there.
        executor: whose `submit` runs `run_trial`: a process pool, or a cluster's.
        label: what the progress bar says.
        progress: whether to show it.

    Raises:
        Exception: that of the first trial that failed, once all others are kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {t: stored for t in trials if (stored := _read(folder / t.file_name)) is not None}
    waiting = {executor.submit(run_trial, t): t for t in trials if t not in results}
    failed = None
    with Bar(len(waiting), label if progress else "", "trial") as bar:
        for done in as_completed(waiting):
            bar.advance()
            # What the others have found is kept first.
            if done.exception() is not None:
                failed = failed or done.exception()
                continue
            trial = waiting[done]
            results[trial] = done.result()
            _keep(folder, trial, results[trial])
    if failed is not None:
        raise failed
    return {trial: results[trial] for trial in trials}


def _keep(folder: Path, trial: Trial, results: object) -> None:
    text = json.dumps({"trial": asdict(trial), "results": results})
    write_whole(folder / trial.file_name, lambda path: path.write_text(text, encoding="utf-8"))


def _read(path: Path) -> Results | None:
    """A trial's results, or None if there is no whole file."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["results"]
        return {kind: [(float(a), float(b)) for a, b in pairs] for kind, pairs in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
