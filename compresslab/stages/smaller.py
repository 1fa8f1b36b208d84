"""Stages that leave fewer numbers: zeros, fewer channels, thin layers, few values.

Each of them works on a copy, then tunes it on the material's labels; without labels batch norms are fitted to
the images (`techniques.norms`) where a layer's outputs have changed their size.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.network.graph import TracingError
from compresslab.network.normal import normal_form
from compresslab.stages.stage import Material, OfAFraction, Stage
from compresslab.stages.trial import quick_layout, refuse_if_read_by_name, with_recurrent_unrolled
from compresslab.techniques import lowrank, scores, sharing
from compresslab.techniques.norms import fitted
from compresslab.techniques.prune import PruneGradually, select
from compresslab.techniques.surgery import SurgeryError, channels_of, shrink, silence


@dataclass(frozen=True, repr=False)
class Prune(OfAFraction):
    """Single weights to 0 by magnitude: gradually in the first 60 % of the tuning; at once without any.

    Without labels there is no tuning, and batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones, as they stay: their zeros are saved with the others.
    """

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy with that fraction of the weights at 0."""
        model = with_recurrent_unrolled(sharing.unshared(network), material.images)
        at_once = copy.deepcopy(model)
        select(scores.magnitude(at_once), self.fraction).apply(at_once)
        if material.train is None:
            return fitted(at_once.eval(), network, material.images)
        hooks = [PruneGradually(self.fraction, until=0.6)]
        tuned = material.tune(model, hooks=hooks, epochs=self.epochs)
        return material.better(tuned, at_once.eval(), repr(self))


@dataclass(frozen=True, repr=False)
class CutChannels(OfAFraction):
    """A fraction of every layer's channels removed, the smallest first; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    """

    def check(self, network: nn.Module, example: torch.Tensor) -> None:
        """A network whose channels cannot be followed is refused."""
        self.cut(sharing.unshared(network), example)

    def cut(self, model: nn.Module, example: torch.Tensor) -> nn.Module:
        """The smaller network, untuned; in normal form, unless the graph can be followed as it is written."""
        try:
            return self._cut(model)
        except (SurgeryError, TracingError):
            form = normal_form(model, example)
        try:
            # What export wrote down for the example's batch must hold for others.
            with torch.no_grad():
                form(example.expand(2, *example.shape[1:]))
        except RuntimeError as error:
            raise SurgeryError(f"its graph depends on the size of the batch: {error}") from error
        return self._cut(form)

    def _cut(self, model: nn.Module) -> nn.Module:
        inner = scores.prunable(model, last=False)
        sizes = {n: s for n, s in scores.magnitude(model).items() if n in inner}
        if not sizes:
            raise SurgeryError(
                "no layer but the last has channels that can be cut: 2-d convolutions and linear layers "
                "have; Prune and LowRank take other layers too"
            )
        mask = select(sizes, self.fraction, "channel", "layer")
        return shrink(silence(model, channels_of(mask)))

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A smaller copy."""
        small = quick_layout(
            self.cut(sharing.unshared(network), material.images[:1]), material.images
        )
        if material.train is None:
            return fitted(small.eval(), network, material.images)
        untuned = copy.deepcopy(small)
        return material.better(material.tune(small, epochs=self.epochs), untuned, repr(self))


@dataclass(frozen=True, repr=False)
class LowRank(OfAFraction):
    """Every layer as two thin ones with that fraction of its parameters; then tuning.

    Without labels batch norms are fitted to the images instead (`techniques.norms`).
    Recurrent layers are written out in linear ones.
    """

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

    def __call__(self, network: nn.Module, material: Material) -> nn.Module:
        """A copy whose weights are looked up."""
        shared = sharing.share_weights(
            with_recurrent_unrolled(sharing.unshared(network), material.images), self.clusters
        )
        untuned = copy.deepcopy(shared).eval()
        tuned = material.tune(shared, epochs=self.epochs, lr=self.lr)
        return material.better(tuned, untuned, repr(self))
