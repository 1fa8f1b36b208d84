"""Other modules in the place of layers: a copy, or in place where the name ends in an underscore.

    replaced(model, {"0.conv": new})     a copy; the layers that go are not copied
    replace_(model, {"0.conv": new})     the model itself, which is returned; `new[""]` is the whole model

Ties stay ties: a module that stands in two places is replaced in both by `replaced`. Left out: layers that a
parent reads by name instead of calling them, see `select.refuse_fast_path`.
"""

import copy
from collections.abc import Mapping

from torch import nn

from compresslab.network.select import check_weights

GEOMETRY = (
    *("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride"),
    *("padding", "dilation", "groups", "padding_mode"),
)


def in_place_of_(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new module with the sizes of the one whose place it takes: a parent may read them by name."""
    for name in GEOMETRY:
        if hasattr(old, name) and not hasattr(new, name):
            setattr(new, name, getattr(old, name))
    return new


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        ValueError: as `check_weights` does.
    """
    check_weights(model)
    return copy.deepcopy(model)


def replaced(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of the model with other modules under some names; the old ones are not copied.

    Raises:
        AttributeError: if the model has no module of such a name.
    """
    memo = {id(model.get_submodule(name)): module for name, module in new.items()}
    return copy.deepcopy(model, memo)


def replace_(model: nn.Module, new: Mapping[str, nn.Module]) -> nn.Module:
    """The model with other modules under some names, changed in place; the name "" is the model itself.

    Raises:
        AttributeError: if the model has no module that could hold such a name.
    """
    for name, module in new.items():
        if not name:
            return module
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    return model
