"""Pruning (剪枝): score x granularity x schedule -> Mask.

    score          how much a weight matters                                          `scores`
    granularity    what falls together: a weight, row, column, kernel, channel, block, or n of every m
    scope          who competes: all groups of the network (global) or those of a layer
    schedule       when: at once, in rounds, or gradually while training

A group's score is the *mean* of its weights' scores, so that groups of different size may compete. Pruning a
share s removes round(s * weights) of the weights in scope, groups with the lowest scores first.

    rounds      1 - (1 - s)^(i / n)          keeps the same share in every round (Han et al. 2015)
    cubic       s - s (1 - t / T)^3          much at first, little at the end (Zhu and Gupta 2017,
                                             https://arxiv.org/abs/1710.01878, equation 1)

A Mask is a bool tensor a layer; it is applied to weights, held during training by a hook, and exchanged
with `torch.nn.utils.prune`. Removing what is masked from the network itself is `surgery`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from compresslab.data import Examples
from compresslab.network.select import check_weights
from compresslab.techniques.scores import Scores, prunable
from compresslab.training import Hook, Run, fit


@dataclass(frozen=True)
class Mask:
    """Which weights stay: bool tensors by layer name.

    Raises:
        ValueError: if a tensor is not bool.
    """

    keep: dict[str, torch.Tensor]

    def __post_init__(self) -> None:
        """Refuse what is no mask."""
        for name, keep in self.keep.items():
            if not isinstance(keep, torch.Tensor) or keep.dtype != torch.bool:
                kind = keep.dtype if isinstance(keep, torch.Tensor) else type(keep).__name__
                raise ValueError(f"keep[{name!r}] must be a bool tensor, got {kind}")

    @property
    def sparsity(self) -> float:
        """The share of weights that are 0."""
        total = sum(k.numel() for k in self.keep.values())
        return 1 - sum(int(k.sum()) for k in self.keep.values()) / max(total, 1)

    def of_layers(self) -> dict[str, float]:
        """The sparsity of each layer."""
        return {n: 1 - float(k.double().mean()) for n, k in self.keep.items()}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> nn.Module:
        """Set masked weights to 0, in place.

        Raises:
            ValueError: if a layer is missing, has another shape, or computes its weight anew.
        """
        check_weights(model)
        for name, keep in self.keep.items():
            weight = _weight(model, name)
            if weight.shape != keep.shape:
                raise ValueError(
                    f"keep[{name!r}] must have shape {tuple(weight.shape)}, got {tuple(keep.shape)}"
                )
            weight.mul_(keep)
        return model

    def to_torch(self, model: nn.Module) -> nn.Module:
        """Hand the mask to `torch.nn.utils.prune`, which keeps it as a buffer of each layer, in place."""
        for name, keep in self.keep.items():
            torch_prune.custom_from_mask(model.get_submodule(name), "weight", keep.float())
        return model

    @classmethod
    def from_torch(cls, model: nn.Module) -> "Mask":
        """The mask that `torch.nn.utils.prune` holds.

        Raises:
            ValueError: if it holds none.
        """
        keep = {
            n: m.weight_mask.bool() for n, m in prunable(model).items() if hasattr(m, "weight_mask")
        }
        if not keep:
            raise ValueError(
                "model must be pruned by torch.nn.utils.prune, got no weight_mask in it"
            )
        return cls(keep)

    @classmethod
    def of_zeros(cls, model: nn.Module) -> "Mask":
        """What is 0 stays 0."""
        return cls({n: m.weight.detach() != 0 for n, m in prunable(model).items()})


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    try:
        return model.get_submodule(name).weight
    except AttributeError as error:
        raise ValueError(f"keep must name layers of the model, got {name!r}") from error


# ---- granularity ---------------------------------------------------------------------------------
def grouping(granularity: str, shape: torch.Size, block: tuple[int, int] = (8, 16)) -> torch.Tensor:
    """The number of the group that each weight of a layer belongs to, int64 of the weight's shape.

    Args:
        granularity: "weight", "row" or "channel" (an output), "column" (an input), "kernel" (one input of
            one output), or "block" (of the weight as a matrix [outputs, everything else]).
        shape: of the weight, [outputs, inputs, ...].
        block: rows and columns of a block; they must divide the matrix.

    Raises:
        ValueError: for another granularity, or a block that does not divide.
    """
    if granularity == "weight":
        return torch.arange(shape.numel()).view(shape)
    outputs, inputs = shape[0], shape[1]
    tail = [1] * (len(shape) - 2)
    row, column = torch.arange(outputs).view(-1, 1, *tail), torch.arange(inputs).view(1, -1, *tail)
    if granularity in ("row", "channel"):
        return row.expand(shape)
    if granularity == "column":
        return column.expand(shape)
    if granularity == "kernel":
        return (row * inputs + column).expand(shape)
    if granularity == "block":
        rows, columns = block
        across = shape.numel() // outputs
        if outputs % rows or across % columns:
            raise ValueError(f"block must divide the matrix {outputs} x {across}, got {block}")
        i, j = torch.arange(outputs)[:, None] // rows, torch.arange(across)[None] // columns
        return (i * (across // columns) + j).view(shape)
    names = "weight, row, channel, column, kernel or block"
    raise ValueError(f"granularity must be {names}, got {granularity!r}")


def select(
    scores: Scores,
    sparsity: float,
    granularity: str = "weight",
    scope: str = "global",
    block: tuple[int, int] = (8, 16),
) -> Mask:
    """The mask that removes the least important groups.

    Args:
        scores: of every layer that may be pruned, of its weight's shape.
        sparsity: share of the weights to remove, from 0 (all stay) to 1 (none do).
        granularity: as in `grouping`.
        scope: "global" (all layers compete) or "layer" (the same share of every layer).
        block: for granularity "block".

    Raises:
        ValueError: for a sparsity outside 0..1, another scope or granularity, or scores with NaN.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in 0..1, got {sparsity}")
    if scope not in ("global", "layer"):
        raise ValueError(f"scope must be global or layer, got {scope!r}")
    _check_scores(scores)
    if scope == "layer":
        parts = [select({n: s}, sparsity, granularity, "global", block) for n, s in scores.items()]
        return Mask({name: keep for part in parts for name, keep in part.keep.items()})
    groups = {n: grouping(granularity, s.shape, block) for n, s in scores.items()}
    sizes = {n: torch.bincount(g.flatten()) for n, g in groups.items()}
    means = {
        n: torch.zeros(len(sizes[n]), dtype=torch.float32).index_add_(
            0, groups[n].flatten(), scores[n].flatten().float()
        )
        / sizes[n]
        for n in scores
    }
    kept = _keep_groups(torch.cat([*means.values()]), torch.cat([*sizes.values()]), sparsity)
    by_layer = dict(zip(scores, kept.split([len(m) for m in means.values()]), strict=True))
    return Mask({n: by_layer[n][groups[n]] for n in scores})


def _check_scores(scores: Scores) -> None:
    if not scores:
        raise ValueError("scores must be of at least one layer, got none")
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise ValueError(f"scores[{name!r}] must not contain NaN")


def _keep_groups(means: torch.Tensor, sizes: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Drop the lowest groups until round(sparsity * weights) weights are gone (never more)."""
    order = torch.argsort(means, stable=True)
    gone = torch.cumsum(sizes[order], 0) <= round(sparsity * int(sizes.sum()))
    kept = torch.ones(len(means), dtype=torch.bool)
    kept[order[gone]] = False
    return kept


def select_n_of_m(scores: Scores, n: int = 2, m: int = 4) -> Mask:
    """The best n of every m neighbours along a layer's flattened inputs.

    Layers whose inputs are no multiple of m are left whole.

    Raises:
        ValueError: unless 0 < n <= m, or if no layer fits.
    """
    if not 0 < n <= m:
        raise ValueError(f"n and m must satisfy 0 < n <= m, got {n} and {m}")
    _check_scores(scores)
    keep = {}
    for name, score in scores.items():
        keep[name] = torch.ones(score.shape, dtype=torch.bool)
        if score[0].numel() % m == 0:
            best = score.reshape(-1, m).argsort(dim=1, descending=True, stable=True)[:, :n]
            chosen = torch.zeros(best.shape[0], m, dtype=torch.bool).scatter_(1, best, True)
            keep[name] = chosen.reshape(score.shape)
    if all(bool(k.all()) for k in keep.values()) and n < m:
        raise ValueError(f"scores must have a layer whose inputs are a multiple of m = {m}")
    return Mask(keep)


# ---- schedules -----------------------------------------------------------------------------------
def rounds(sparsity: float, count: int) -> list[float]:
    """The sparsity after each of `count` rounds that keep equal shares.

    Raises:
        ValueError: for a sparsity outside 0..1 or no rounds.
    """
    if not 0 <= sparsity <= 1 or count < 1:
        raise ValueError(
            f"sparsity must lie in 0..1 and count be 1 or more, got {sparsity}, {count}"
        )
    return [1 - (1 - sparsity) ** (i / count) for i in range(1, count + 1)]


def cubic(step: int, steps: int, sparsity: float) -> float:
    """The sparsity at a step of gradual pruning; `sparsity` from step `steps` on, which is at least 1."""
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    return sparsity - sparsity * (1 - min(step / steps, 1)) ** 3


class KeepMask(Hook):
    """Hold a mask during training: masked weights stay 0."""

    def __init__(self, mask: Mask) -> None:
        """Args: the mask."""
        self.mask = mask

    def before_training(self, run: Run) -> None:
        """Apply it."""
        self.mask.apply(run.model)

    def after_step(self, run: Run) -> None:
        """Apply it again: momentum moves masked weights too."""
        self.mask.apply(run.model)


class KeepZeros(Hook):
    """Hold what an earlier stage has pruned: weights that are 0 when a training begins are 0 after it.

    A tensor that is all zeros is left to learn: it was made so (the second factor of LoRA), or nothing of its
    layer was left.
    """

    def __init__(self) -> None:
        """Nothing is held before a training."""
        self.kept: list[tuple[nn.Parameter, torch.Tensor]] = []

    def before_training(self, run: Run) -> None:
        """Find the zeros of this network's matrices and kernels."""
        found = [(p, p.detach() != 0) for p in run.model.parameters() if p.ndim > 1]
        self.kept = [(p, keep) for p, keep in found if keep.any() and not keep.all()]

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Put them back: gradient and momentum move them."""
        for parameter, keep in self.kept:
            parameter.mul_(keep)


class PruneGradually(Hook):
    """Prune while training, by magnitude and the cubic schedule, up to `until` of the steps."""

    def __init__(self, sparsity: float, every: int = 10, until: float = 0.6) -> None:
        """Args: final sparsity, steps between two cuts, share of the steps after which it is reached."""
        if not 0 <= sparsity <= 1 or every < 1 or not 0 < until <= 1:
            raise ValueError(
                "sparsity must lie in 0..1, every be 1 or more, until in (0, 1], "
                f"got {sparsity}, {every}, {until}"
            )
        self.sparsity, self.every, self.until = sparsity, every, until
        self.mask: Mask | None = None

    def before_training(self, run: Run) -> None:
        """Begin with no mask: one of an earlier training, or another network, is none of this one."""
        self.mask = None

    def after_step(self, run: Run) -> None:
        """Cut from time to time, hold always."""
        last = max(1, int(self.until * run.steps))
        step = run.step + 1
        if step <= last and (step % self.every == 0 or step == last):
            share = cubic(step, last, self.sparsity)
            scores = {n: m.weight.detach().abs() for n, m in prunable(run.model).items()}
            self.mask = select(scores, share)
        if self.mask is not None:
            self.mask.apply(run.model)


def prune_and_tune(
    model: nn.Module,
    data: Examples,
    sparsities: Sequence[float],
    epochs: float,
    score: Callable[[nn.Module], Scores],
    granularity: str = "weight",
    scope: str = "global",
    lr: float = 0.05,
    **options: object,
) -> Mask:
    """Prune in rounds, each followed by its share of the training, in place.

    Args:
        model: a trained network.
        data: what to tune on.
        sparsities: after each round; a single one is one-shot pruning.
        epochs: of all rounds together.
        score: from a model to its scores.
        granularity: as in `select`.
        scope: as in `select`.
        lr: as in `fit`.
        options: further arguments of `fit`.

    Raises:
        ValueError: for no rounds, and as `select` does.
    """
    if len(sparsities) == 0:
        raise ValueError("sparsities must name at least one round, got none")
    for sparsity in sparsities:
        mask = select(score(model), sparsity, granularity, scope)
        fit(model, data, epochs / len(sparsities), lr, hooks=[KeepMask(mask)], **options)
    return mask
