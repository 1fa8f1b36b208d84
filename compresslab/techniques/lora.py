"""LoRA (低秩适配): a frozen layer with a small learned correction of low rank beside it.

    y = W x + (alpha / r) B A x,      A [r, n] random,   B [m, r] = 0 at first   (so that nothing changes)

Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4.1. Only A and B are trained: r (m + n) numbers
instead of m n, and the optimizer's state shrinks with them. Merged into one matrix, W + (alpha / r) B A, the
layer costs nothing more at run time; unmerged, W is as it was up to rounding: one base serves many tasks.

A convolution's A has the kernel's shape and B is 1x1, which is the same formula on patches. The base may be
anything that computes x -> y with known sizes, packed weights included; such a base cannot be merged.

Left out: dropout in front of A, embeddings.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compresslab.arguments import as_path
from compresslab.network.edit import in_place_of_, plain_copy, replace_
from compresslab.network.select import is_linear, is_transposed, refuse_fast_path, sizes
from compresslab.writing import FileError, write_whole


class LoRA(nn.Module):
    """A frozen layer plus its correction.

    Args:
        base: linear, an ungrouped convolution with numeric padding, or any module with `in_features` and
            `out_features`.
        rank: r.
        alpha: the correction's scale is alpha / rank; if None, alpha = rank.

    Raises:
        ValueError: for a rank below 1 or above both sizes, or a base of unknown sizes.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float | None = None) -> None:
        """Freeze the base and add A and B."""
        super().__init__()
        if alpha is not None and not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite, got {alpha}")
        self.base = base.requires_grad_(False)
        self.rank = rank
        # A buffer, so that a saved network knows how strong its corrections are.
        self.register_buffer("strength", torch.tensor(float(rank if alpha is None else alpha)))
        if isinstance(base, nn.Conv2d) and base.groups == 1:
            limit = min(base.out_channels, base.weight[0].numel())
            place = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
            place["padding_mode"] = base.padding_mode
            self.down = nn.Conv2d(
                base.in_channels, _checked(rank, limit), base.kernel_size, bias=False, **place
            )
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            inputs, outputs = sizes(base)
            self.down = nn.Linear(inputs, _checked(rank, min(inputs, outputs)), bias=False)
            self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)
        # A buffer, so that a saved network knows whether its weights are merged.
        self.register_buffer("is_merged", torch.tensor(False))
        weight = getattr(base, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.is_floating_point():
            self.down.to(weight.device, weight.dtype)
            self.up.to(weight.device, weight.dtype)
        self.train(base.training)
        in_place_of_(self, base)

    @property
    def merged(self) -> bool:
        """Whether the base's weight holds the correction."""
        return bool(self.is_merged)

    @property
    def alpha(self) -> float:
        """The correction's strength; it can be changed while unmerged."""
        return float(self.strength)

    @alpha.setter
    def alpha(self, value: float) -> None:
        if self.merged:
            raise ValueError("alpha can be changed only while the layer is unmerged")
        self.strength.fill_(float(value))

    @property
    def scale(self) -> float:
        """Alpha / r."""
        return self.alpha / self.rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base's output, and the correction's unless it is merged."""
        y = self.base(x)
        return y if self.merged else y + self.scale * self.up(self.down(x))

    @torch.no_grad()
    def correction(self) -> torch.Tensor:
        """(alpha / r) B A in the shape of the base's weight."""
        flat = self.scale * self.up.weight.flatten(1) @ self.down.weight.flatten(1)
        weight = self.base.weight
        return (flat.T if is_transposed(self.base) else flat).reshape(weight.shape)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the correction to the base's weight.

        Raises:
            ValueError: if it is merged already, or the base has no float weight.
        """
        self._change(merged=False, sign=1)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take it off again."""
        self._change(merged=True, sign=-1)

    def _change(self, merged: bool, sign: int) -> None:
        if self.merged != merged:
            raise ValueError(f"the layer is {'not ' if merged else ''}merged already")
        weight = self.base._parameters.get("weight")
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            kind = type(self.base).__name__
            raise ValueError(f"base must have a float weight to be merged into, got {kind}")
        weight += sign * self.correction()
        self.is_merged.fill_(not merged)


def _checked(rank: int, limit: int) -> int:
    if not 1 <= rank <= limit:
        raise ValueError(f"rank must be 1 to {limit} for this layer, got {rank}")
    return rank


def adaptable(layer: nn.Module) -> bool:
    """Linear layers, ungrouped convolutions with padding in numbers, GPT-2's Conv1D."""
    return is_linear(layer) or (
        isinstance(layer, nn.Conv2d) and layer.groups == 1 and not isinstance(layer.padding, str)
    )


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float | None = None,
    layers: Iterable[str] | Callable[[str, nn.Module], bool] | None = None,
) -> nn.Module:
    """A copy of the model, frozen, with LoRA on some layers.

    Args:
        model: any module tree; not changed.
        rank: r, lowered for layers that are thinner (whose scale alpha / r is larger then).
        alpha: see `LoRA`.
        layers: names, or a choice by name and module; if None, every linear layer and convolution.

    Raises:
        ValueError: if no layer is chosen, a name is not one of the model's layers, the model has LoRA layers
            already, or a chosen layer shares its weight (merging would change the others, too).
    """
    if corrections(model):
        raise ValueError("model must have no LoRA layers yet: merge them into plain layers first")
    refuse_fast_path(model)
    model = plain_copy(model).requires_grad_(False)
    modules = dict(model.named_modules(remove_duplicate=False))
    names = _chosen(modules, layers)
    for name in names:
        new = LoRA(modules[name], _thin(modules[name], rank), alpha)
        model = replace_(model, {name: new})
    return model


def _chosen(
    modules: dict[str, nn.Module],
    layers: Iterable[str] | Callable[[str, nn.Module], bool] | None,
) -> list[str]:
    if layers is None:
        names = [n for n, m in modules.items() if adaptable(m)]
    elif callable(layers):
        names = [n for n, m in modules.items() if layers(n, m)]
    else:
        names = [layers] if isinstance(layers, str) else list(layers)
    unknown = [n for n in names if n not in modules]
    if unknown or not names:
        raise ValueError(f"layers must name layers of the model, got {unknown or 'none'}")
    weights = [id(m._parameters["weight"]) for m in modules.values() if "weight" in m._parameters]
    shared = [n for n in names if weights.count(id(modules[n]._parameters.get("weight"))) > 1]
    if shared:
        raise ValueError(f"layers must have weights of their own, got shared ones: {shared}")
    return names


def _thin(layer: nn.Module, rank: int) -> int:
    if isinstance(layer, nn.Conv2d):
        return min(rank, layer.out_channels, layer.weight[0].numel())
    return min(rank, *sizes(layer))


def corrections(model: nn.Module) -> dict[str, LoRA]:
    """The model's LoRA layers by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LoRA)}


def merge(model: nn.Module) -> nn.Module:
    """Merge every correction, in place."""
    for layer in corrections(model).values():
        layer.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Take every correction off again, in place."""
    for layer in corrections(model).values():
        layer.unmerge()
    return model


def trained_share(model: nn.Module) -> float:
    """The share of the *base's* parameters that are trained beside it."""
    added = sum(
        p.numel() for m in corrections(model).values() for p in (m.down.weight, m.up.weight)
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained / (sum(p.numel() for p in model.parameters()) - added)


# ---- the file of a task --------------------------------------------------------------------------
def save(model: nn.Module, path: Path) -> int:
    """Write A and B of every layer, and nothing else; returns the file's bytes.

    Raises:
        ValueError: if the model has no LoRA layer.
    """
    layers = corrections(model)
    if not layers:
        raise ValueError("model must have LoRA layers, got none")
    tensors = {
        f"{name}.{part}": getattr(layer, part).weight.detach().clone().contiguous()
        for name, layer in layers.items()
        for part in ("down", "up")
    }
    scales = {name: repr(layer.alpha) for name, layer in layers.items()}
    path = as_path(path)
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=scales))
    return path.stat().st_size


@torch.no_grad()
def load_(path: Path, model: nn.Module) -> nn.Module:
    """Read A, B and alpha into a model with LoRA layers of the same names and ranks, all or none.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if the file has other layers or shapes, is no safetensors file, or is not finite.
        ValueError: if a layer is merged at the moment.
    """
    layers, path = corrections(model), as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if any(layer.merged for layer in layers.values()):
        raise ValueError("model must be unmerged first: its base holds the old correction")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
            alphas = {name: float(about[name]) for name in layers if name in about}
    except (SafetensorError, ValueError) as error:
        raise FileError(f"{path} is no file of LoRA layers: {error}") from error
    if endless := [name for name, alpha in alphas.items() if not math.isfinite(alpha)]:
        raise FileError(
            f"{path}: the alpha of {endless[0]} must be finite, got {alphas[endless[0]]}"
        )
    wanted = {
        f"{name}.{part}": getattr(layer, part).weight
        for name, layer in layers.items()
        for part in ("down", "up")
    }
    if set(tensors) != set(wanted):
        other = sorted(set(tensors) ^ set(wanted))
        raise FileError(
            f"{path} must hold the model's LoRA layers, these differ: {', '.join(other)}"
        )
    for name, weight in wanted.items():
        if tensors[name].shape != weight.shape:
            raise FileError(
                f"{path}: {name} must have shape {list(weight.shape)}, got {list(tensors[name].shape)}"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise FileError(f"{path}: {name} must be finite, got NaN or an infinity")
    for name, weight in wanted.items():
        weight.copy_(tensors[name])
    for name, layer in layers.items():
        layer.alpha = alphas.get(name, layer.alpha)
    return model
