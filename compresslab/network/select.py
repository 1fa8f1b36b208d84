"""The linear layers of any module tree, whoever built it, as matrices [outputs, inputs].

    layer                     weight lies          where
    nn.Linear                 [outputs, inputs]    everywhere
    Conv1D (transformers)     [inputs, outputs]    GPT-2

A layer whose weight is also somebody else's (a language model's head and its words) is nobody's to change
alone, and is left out of `linear_layers`; `word_tables` has it, together with the table that it shares.
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import fx, nn

from compresslab.arguments import check_open


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D of Hugging Face, whose weight lies [inputs, outputs]."""
    kind = type(layer)
    return kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")


def computes_as(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer of this kind in its place would compute the same.

    Not one with a forward or a call of its own (of the class or of this one layer), with hooks, with more
    parameters than a weight and a bias, nor of a class that keeps something else that a parent may read.
    """
    own = type(layer)
    if not isinstance(layer, kind) or own.forward is not kind.forward or "forward" in vars(layer):
        return False
    if own.__call__ is not nn.Module.__call__ or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if set(layer._parameters) - {"weight", "bias"} or layer._buffers or layer._modules:
        return False
    if own is kind:
        return True
    known = vars(kind(1, 1, device="meta"))
    return all(name in known or name.startswith("_") for name in vars(layer))


def is_linear(layer: nn.Module) -> bool:
    """Linear layers and Conv1D that compute what these do (`computes_as`).

    Not the one in nn.MultiheadAttention, which never runs as a module.
    """
    if is_read_by_name(layer):
        return False
    if is_transposed(layer):
        return not (layer._forward_hooks or layer._forward_pre_hooks)
    return computes_as(layer, nn.Linear)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear-like layer; a table's width and its words.

    Raises:
        ValueError: if it does not say.
    """
    if is_transposed(layer):
        return tuple(layer.weight.shape)
    if hasattr(layer, "num_embeddings"):
        return layer.embedding_dim, layer.num_embeddings
    try:
        return layer.in_features, layer.out_features
    except AttributeError as error:
        kind = type(layer).__name__
        raise ValueError(f"base must be linear or an ungrouped convolution, got {kind}") from error


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers with a weight of their own, by name, in the order of the tree.

    Raises:
        ValueError: if there is none.
    """
    check_weights(model)
    found = own_linear_layers(model)
    if not found:
        packed = any(hasattr(m, "weight_bits") for m in model.modules())
        why = "none" if not packed else "layers that are packed or on int8 already"
        raise ValueError(f"model must have a linear layer with a weight of its own, got {why}")
    return found


def own_linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """`linear_layers`, or an empty dictionary where there is none."""
    own = with_own_weight(model)
    return {n: m for n, m in own.items() if is_linear(m)}


def with_own_weight(model: nn.Module) -> dict[str, nn.Module]:
    """Modules whose weight no other module has too, by name: not a head that is tied to a table of words."""
    modules = list(model.named_modules())
    uses = Counter(id(p) for _, m in modules for p in m._parameters.values() if p is not None)
    weights = {n: m._parameters.get("weight") for n, m in modules}
    return {n: m for n, m in modules if weights[n] is not None and uses[id(weights[n])] == 1}


def is_read_by_name(layer: nn.Module) -> bool:
    """Whether it is the last layer of nn.MultiheadAttention, which never runs: its weight is read instead."""
    return isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)


def is_table(layer: nn.Module) -> bool:
    """Whether a layer is a table of rows that are looked up, and no more: nn.Embedding with its own forward.

    Not one that rescales its rows while it reads them (`max_norm`).
    """
    return computes_as(layer, nn.Embedding) and layer.max_norm is None


def word_tables(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Tables (词嵌入, embeddings) by name, each with the layers that share its weight, such as a tied head.

    A table whose weight is also read by something that is neither a table nor a plain linear layer is left
    out; so is an empty one.
    """
    users: dict[int, list[str]] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(name)
    found = {}
    for names in users.values():
        tables = [n for n in names if is_table(modules[n])]
        heads = [n for n in names if is_linear(modules[n]) and not is_transposed(modules[n])]
        if tables and len(tables) + len(heads) == len(names) and modules[tables[0]].weight.numel():
            found[tables[0]] = tuple(n for n in names if n != tables[0])
    return found


def packable(model: nn.Module) -> set[str]:
    """The layers whose weights can be packed: linear ones, tables, and those that share a table."""
    tables = word_tables(model)
    return {*own_linear_layers(model), *tables, *(n for tied in tables.values() for n in tied)}


def refuse_fast_path(model: nn.Module) -> None:
    """Refuse torch's own encoder layers, which read weights by name, past what stands in a layer's place.

    Raises:
        ValueError: if there is one and the fast path is not switched off.
    """
    if not torch.backends.mha.get_fastpath_enabled():
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            raise ValueError(
                f"{name or 'the model'!r} is an nn.TransformerEncoderLayer, whose fast path reads weights by "
                "name: call torch.backends.mha.set_fastpath_enabled(False) first"
            )


def refuse_to_pack(model: nn.Module) -> None:
    """Refuse torch's own encoder layers, which read weights by name with the fast path and without.

    Raises:
        ValueError: naming the first.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            raise ValueError(
                f"{name or 'the model'!r} is an nn.TransformerEncoderLayer, which reads its weights by name: "
                "packed layers need an encoder that calls its layers"
            )


def check_weights(model: nn.Module) -> None:
    """Refuse layers that compute their weight anew whenever they run: what is written into it is lost.

    Raises:
        ValueError: for weight and spectral norms and masks of torch's own, with the line that ends them.
    """
    check_open(model, "model")
    for name, layer in model.named_modules():
        kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
        if isinstance(layer, kinds) and "weight" not in layer._parameters:
            raise ValueError(
                f"layer {name!r} computes its weight from other parameters: end that first, by "
                f"{_ending(layer)}"
            )


def refuse_hooks(modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse modules that do more than their class: what is built in their place would do less.

    Args:
        modules: by name, such as `model.named_modules()`.

    Raises:
        ValueError: naming the first that has a forward hook, or a forward of its own.
    """
    for name, module in modules:
        where = f"layer {name!r}" if name else "the network"
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(
                f"{where} has a forward hook, which would be lost: end it first, by handle.remove()"
            )
        if "forward" in vars(module) and not isinstance(module, fx.GraphModule):
            raise ValueError(
                f"{where} has a forward of its own, which would be lost: write it as a class"
            )


def _ending(layer: nn.Module) -> str:
    if nn.utils.parametrize.is_parametrized(layer, "weight"):
        return 'torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")'
    if hasattr(layer, "weight_mask"):
        return 'torch.nn.utils.prune.remove(layer, "weight")'
    if hasattr(layer, "weight_g"):
        return "torch.nn.utils.remove_weight_norm(layer)"
    if hasattr(layer, "weight_orig"):
        return "torch.nn.utils.remove_spectral_norm(layer)"
    return "compresslab.techniques.sharing.unshared(network), if its weights are shared"


def matrix(layer: nn.Module) -> torch.Tensor:
    """The weight as [outputs, inputs], float32 and contiguous; a copy where it must be."""
    weight = layer.weight.detach()
    return (weight.T if is_transposed(layer) else weight).float().contiguous()


@torch.no_grad()
def set_matrix(layer: nn.Module, weight: torch.Tensor) -> None:
    """Write a matrix [outputs, inputs] into the layer's weight."""
    layer.weight.copy_(weight.T if is_transposed(layer) else weight)


def as_linear(layer: nn.Module) -> nn.Linear:
    """The layer itself if it is nn.Linear, else an nn.Linear that computes the same."""
    if not is_transposed(layer):
        return layer
    inputs, outputs = sizes(layer)
    new = nn.Linear(inputs, outputs, device="meta", dtype=layer.weight.dtype)
    new.weight = nn.Parameter(layer.weight.detach().T.contiguous())
    new.bias = nn.Parameter(layer.bias.detach().clone())
    return new.train(layer.training)


def arranged_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The tensor, channels last in memory if `other` is; both of one shape.

    Torch's convolutions choose their layout by the weight's strides, and the slower one if those say nothing:
    rounding, looking up and reshaping do not keep them, least of all where there is one input channel.
    """
    if other.ndim != 4 or tensor.stride() == other.stride() or other.stride(1) != 1:
        return tensor
    return tensor.to(memory_format=torch.channels_last)
