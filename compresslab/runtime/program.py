"""An integer network as a list of steps: which module, on which earlier results.

    name        module            inputs
    x           quantize          (the image)
    0_0         conv2d            x
    1           max_pool          0_0
    ...

It is a torch module like any other; `forward` walks the list and forgets results nobody needs any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from compresslab.runtime.modules import IntegerModule

IMAGE = "image"


@dataclass(frozen=True)
class Step:
    """One line: its name, and the names of the results it takes."""

    name: str
    inputs: tuple[str, ...]


class Program(nn.Module):
    """An integer network.

    Raises:
        ValueError: if a step takes a result that no earlier step gives, or a name comes twice.
    """

    def __init__(self, steps: Sequence[Step], modules: Sequence[IntegerModule]) -> None:
        super().__init__()
        known = {IMAGE}
        for step in steps:
            missing = [name for name in step.inputs if name not in known]
            if missing or step.name in known:
                raise ValueError(
                    f"steps must build on earlier ones, got {step} after {', '.join(known)}"
                )
            known.add(step.name)
        if not steps:
            raise ValueError("steps must not be empty")
        self.steps = tuple(steps)
        self.layers = nn.ModuleList(modules)
        last_use = {name: i for i, step in enumerate(steps) for name in step.inputs}
        # For each step: its name, what it takes, and what nobody needs after it.
        self.plan = tuple(
            (step.name, step.inputs, [n for n in {*step.inputs} if last_use[n] == i])
            for i, step in enumerate(steps)
        )

    @torch.inference_mode()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float images [b, c, h, w] -> float logits [b, classes]."""
        results = {IMAGE: image}
        # Small networks take a tenth of a millisecond: what is done here for every step shows.
        layers = self.layers._modules.values()
        watched = _has_any_global_hook() or torch.compiler.is_compiling()
        for (name, inputs, finished), layer in zip(self.plan, layers, strict=True):
            hooked = watched or layer._forward_hooks or layer._forward_pre_hooks
            run = layer if hooked else layer.forward
            if len(inputs) == 1:
                results[name] = run(results[inputs[0]])
            else:
                results[name] = run(*[results[one] for one in inputs])
            for one in finished:
                del results[one]
        return results[name]
