"""What flows through named layers while a block runs, and nothing left behind after it.

    with tapped(layers, after=lambda name, layer, inputs, output: ...):
        model(x)

`before` and `after` are called with the layer's name, the layer, and its inputs as a tuple, whether they were
given by place or by name. Hooks are removed however the block ends.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

Before = Callable[[str, nn.Module, tuple], None]
After = Callable[[str, nn.Module, tuple, torch.Tensor], None]


@contextlib.contextmanager
def tapped(
    layers: Mapping[str, nn.Module], before: Before | None = None, after: After | None = None
) -> Iterator[None]:
    """Call `before` and `after` around every run of the layers inside the block.

    Args:
        layers: modules by name, as `named_modules` has them.
        before: called with (name, layer, inputs) when a layer is about to run.
        after: called with (name, layer, inputs, output) when it has run.
    """
    handles = []
    try:
        for name, layer in layers.items():
            if before is not None:

                def pre(module: nn.Module, arguments: tuple, named: dict, name: str = name) -> None:
                    before(name, module, (*arguments, *named.values()))

                handles.append(layer.register_forward_pre_hook(pre, with_kwargs=True))
            if after is not None:

                def post(
                    module: nn.Module, arguments: tuple, named: dict, out: object, name: str = name
                ) -> None:
                    after(name, module, (*arguments, *named.values()), out)

                handles.append(layer.register_forward_hook(post, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_name(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Those modules of the model, in the order of the names.

    Raises:
        ValueError: if the model has no such module.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    unknown = [name for name in names if name not in modules]
    if unknown:
        raise ValueError(f"layers must name layers of the model, got {', '.join(unknown)}")
    return {name: modules[name] for name in names}


class Tap:
    """What named layers put out while the block is open: `with Tap(model, names) as found: model(x)`.

    Raises:
        ValueError: if the model has no such layer.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        """Args: the network, dotted layer names."""
        self.layers = by_name(model, names)

    def __enter__(self) -> dict[str, torch.Tensor]:
        """Listen."""
        found: dict[str, torch.Tensor] = {}
        self.block = tapped(
            self.layers, after=lambda name, _layer, _inputs, output: found.update({name: output})
        )
        self.block.__enter__()
        return found

    def __exit__(self, *exception: object) -> None:
        """Listen no more."""
        self.block.__exit__(*exception)
