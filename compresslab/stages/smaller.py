"""Stages that leave fewer numbers: zeros, fewer channels, thin layers, few values.

Each of them works on a copy, then tunes it on the material's labels; without labels batch norms are fitted to
the images (`techniques.norms`) where a layer's outputs have changed their size.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn

from compresslab.network.edit import replaced
from compresslab.network.graph import TracingError
from compresslab.network.normal import flat_outputs, normal_form
from compresslab.network.recurrent import unrolled
from compresslab.network.select import check_weights, refuse_fast_path
from compresslab.stages.stage import Material, OfAFraction, Stage, check_epochs
from compresslab.stages.trial import (
    quick_layout,
    refuse_if_read_by_name,
    say_if_one_size,
    with_recurrent_unrolled,
)
from compresslab.techniques import lowrank, scores, sharing
from compresslab.techniques.norms import fitted
from compresslab.techniques.prune import KeepZeros, PruneGradually, select
from compresslab.techniques.surgery import (
    NO_CHANNELS,
    SurgeryError,
    channels_of,
    shrink,
    silence,
)
from compresslab.training import evaluating


@dataclass(frozen=True, repr=False)
class Prune(OfAFraction):
    """Single weights to 0 by magnitude: gradually in the first 60 % of the tuning; at once without any.

    Without labels there is no tuning, and batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones, as they stay: their zeros are saved with the others.
    """

    def check(self, network: nn.Module, _example: torch.Tensor) -> None:
        """A network without a layer to prune, or with one that computes its weight, is refused."""
        check_weights(network)
        _refuse_none(scores.prunable(unrolled(network)), "pruned", "convolutions and linear layers")

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with that fraction of the weights at 0."""
        model = with_recurrent_unrolled(sharing.unshared(network), material.images)
        at_once = copy.deepcopy(model)
        select(scores.magnitude(at_once), self.fraction).apply(at_once)
        if material.train is None:
            return fitted(at_once.eval(), network, material.images)
        hooks = [KeepZeros(), PruneGradually(self.fraction, until=0.6)]
        tuned = material.tune(model, hooks=hooks, epochs=self.epochs)
        return material.better(tuned, at_once.eval(), repr(self))


@dataclass(frozen=True, repr=False)
class CutChannels(OfAFraction):
    """A fraction of every layer's channels removed, the smallest first; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    """

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network whose channels cannot be followed is refused."""
        self.cut(sharing.unshared(network), example, say=True)

    def cut(self, model: nn.Module, example: torch.Tensor, say: bool = False) -> nn.Module:
        """The smaller network, untuned; in normal form, unless the graph can be followed as it is written."""
        try:
            return self._proved(model, example)
        except (SurgeryError, TracingError):
            form = normal_form(model, example)
        try:
            # What export wrote down for the example's batch must hold for others.
            with torch.no_grad():
                form(example.expand(2, *example.shape[1:]))
        except Exception as error:  # a list that is too short, say
            raise SurgeryError(f"its graph depends on the size of the batch: {error}") from error
        if say:
            say_if_one_size(self, form, model, example)
        return _with_unused_(self._proved(form, example), model)

    def _proved(self, model: nn.Module, example: torch.Tensor) -> nn.Module:
        """The smaller network, once it answers the example as the network does whose channels are silent."""
        silent = self._silenced(model)
        small = shrink(silent)
        with torch.no_grad(), evaluating(silent), evaluating(small):
            wanted = flat_outputs(silent(example))
            try:
                found = flat_outputs(small(example))
            except Exception as error:
                raise SurgeryError(
                    f"the network does not run without its channels: {error}"
                ) from error
        close = {"rtol": 1e-2, "atol": 1e-3 * float(wanted.abs().max()) + 1e-6, "equal_nan": True}
        if found.shape != wanted.shape or not torch.allclose(found, wanted, **close):
            raise SurgeryError(
                "without its silent channels the network answers otherwise: some layer reads them by their "
                "place; Prune leaves them where they are"
            )
        return small

    def _silenced(self, model: nn.Module) -> nn.Module:
        inner = scores.prunable(model, last=False)
        sizes = {n: s for n, s in scores.magnitude(model).items() if n in inner}
        if not sizes:
            raise SurgeryError(NO_CHANNELS)
        mask = select(sizes, self.fraction, "channel", "layer")
        return silence(copy.deepcopy(model).eval(), channels_of(mask))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A smaller copy."""
        small = quick_layout(
            self.cut(sharing.unshared(network), material.images[:1]), material.images
        )
        if material.train is None:
            return fitted(small.eval(), network, material.images)
        untuned = copy.deepcopy(small)
        tuned = material.tune(small, hooks=[KeepZeros()], epochs=self.epochs)
        return material.better(tuned, untuned, repr(self))


@dataclass(frozen=True, repr=False)
class LowRank(OfAFraction):
    """Every layer as two thin ones with that fraction of its parameters; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones.
    """

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network without a layer that becomes two, or that reads one by name, is refused."""
        refuse_fast_path(network)
        check_weights(network)
        model = sharing.unshared(network)
        which = "linear layers and 2-d convolutions without groups, padded with zeros"
        _refuse_none(lowrank.factorizable(unrolled(model)), "factorized", which)
        layers = lowrank.factorizable(model)
        # Whatever the ranks: a parent that reads a layer's weight finds two layers.
        thin = {name: nn.Sequential(copy.deepcopy(layer)) for name, layer in layers.items()}
        refuse_if_read_by_name(replaced(model, thin), example)

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with thin layers."""
        model = with_recurrent_unrolled(sharing.unshared(network), material.images)
        thin = lowrank.factorize(model, lowrank.ranks_by_budget(model, self.fraction))
        refuse_if_read_by_name(thin, material.images[:1])
        thin = quick_layout(thin, material.images)
        if material.train is None:
            return fitted(thin.eval(), network, material.images)
        untuned = copy.deepcopy(thin).eval()
        return material.better(material.tune(thin, epochs=self.epochs), untuned, repr(self))


@dataclass(frozen=True, repr=False)
class Share(Stage):
    """Each layer's nonzero weights take few values, which are tuned; zeros stay zeros.

    Recurrent layers are written out in linear ones.
    """

    clusters: int
    epochs: float = 1
    lr: float = 0.1

    def __post_init__(self) -> None:
        """Validate the settings."""
        if isinstance(self.clusters, bool) or not isinstance(self.clusters, Integral):
            raise ValueError(f"clusters must be an integer from 1 to 255, got {self.clusters!r}")
        if not 1 <= self.clusters <= 255:
            raise ValueError(f"clusters must be an integer from 1 to 255, got {self.clusters!r}")
        check_epochs(self.epochs)

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network without a layer whose weights can be shared, or that reads one by name, is refused."""
        refuse_fast_path(network)
        model = sharing.unshared(network)
        which = "linear layers and 2-d convolutions in float32"
        _refuse_none(sharing.shareable(unrolled(model)), "shared", which)
        if sharing.shareable(model):
            refuse_if_read_by_name(sharing.share_weights(model, 1), example)

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy whose weights are looked up."""
        shared = sharing.share_weights(
            with_recurrent_unrolled(sharing.unshared(network), material.images), self.clusters
        )
        untuned = copy.deepcopy(shared).eval()
        tuned = material.tune(shared, epochs=self.epochs, lr=self.lr)
        return material.better(tuned, untuned, repr(self))


def _with_unused_(small: nn.Module, model: nn.Module) -> nn.Module:
    """The network with those layers that evaluation does not run, a head for training say, as they were.

    Its file then holds all that the author's class asks for.
    """
    there = dict(small.named_modules())
    for name, module in model.named_modules():
        if name and name not in there and (module._parameters or module._buffers):
            small.add_submodule(name, copy.deepcopy(module))
    return small


def _refuse_none(layers: Mapping[str, nn.Module], done: str, which: str) -> None:
    if not layers:
        raise ValueError(f"network has no layer that could be {done}: {which} can")
