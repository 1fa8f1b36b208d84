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
        self.last_use = {name: i for i, step in enumerate(steps) for name in step.inputs}

    @torch.inference_mode()
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Float images [b, c, h, w] -> float logits [b, classes]."""
        results = {IMAGE: image}
        for index, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            results[step.name] = layer(*(results[name] for name in step.inputs))
            for name in step.inputs:
                if self.last_use[name] == index:
                    results.pop(name, None)
        return results[self.steps[-1].name]
