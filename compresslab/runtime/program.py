"""A deployed network as a list of steps: which step, on which earlier results.

    name        step              inputs
    x           quantize          image
    0_0         conv2d            x
    1           max_pool          0_0
    ...

It is a torch module like any other. Step by step, it walks the list and forgets results nobody needs any
more; where nobody watches the steps, `forward` runs all of them in one call (`runtime.plan`). A network with
several inputs has "image", "image_1", ...; one with several outputs answers with a tuple.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from compresslab.kernels.simd import tiles_available
from compresslab.runtime.ops import ended
from compresslab.runtime.steps.step import Numbers, Step

IMAGE = "image"
MOST_PLANS = 16
"""Sizes of images that are remembered; the one that came first is forgotten first."""


def image_name(index: int) -> str:
    """What the input at a place is called."""
    return IMAGE if index == 0 else f"{IMAGE}_{index}"


def suits(image: torch.Tensor) -> bool:
    """Whether images can go through a plan: plain float32 images or rows, in memory.

    On matrix tiles convolutions of many pixels are faster step by step.
    """
    plain = type(image) in (torch.Tensor, nn.Parameter) and image.is_cpu
    if (
        not plain
        or image.layout is not torch.strided
        or image.dtype != torch.float32
        or image.ndim not in (2, 4)
    ):
        return False
    return image.shape[0] == 1 or not tiles_available()


@dataclass(frozen=True)
class Line:
    """One line: its name, and the names of the results it takes."""

    name: str
    inputs: tuple[str, ...]


class Program(nn.Module):
    """A deployed network.

    Args:
        lines: in the order of execution.
        steps: what each line computes.
        outputs: names of the results that are handed back; if empty, the last one.
        images: how many inputs it takes.

    Raises:
        ValueError: if a line takes a result that no earlier line gives, a name comes twice, or an output is
            no line.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        steps: Sequence[Step],
        outputs: Sequence[str] = (),
        images: int = 1,
    ) -> None:
        super().__init__()
        self.images = tuple(image_name(i) for i in range(images))
        known = set(self.images)
        for line in lines:
            missing = [name for name in line.inputs if name not in known]
            if missing or line.name in known:
                raise ValueError(
                    f"lines must build on earlier ones, got {line} after {', '.join(sorted(known))}"
                )
            known.add(line.name)
        if not lines:
            raise ValueError("lines must not be empty")
        self.steps = tuple(lines)
        self.outputs = tuple(outputs) or (lines[-1].name,)
        unknown = sorted(set(self.outputs) - known)
        if unknown:
            raise ValueError(f"outputs must be names of lines, got {', '.join(unknown)}")
        self.layers = nn.ModuleList(steps)
        self.plans: dict = {}
        last_use = {name: i for i, line in enumerate(lines) for name in line.inputs}
        last_use |= {name: len(lines) for name in self.outputs}
        # For each line: its name, what it takes, and what nobody needs after it.
        self.order = tuple(
            (line.name, line.inputs, [n for n in {*line.inputs} if last_use[n] == i])
            for i, line in enumerate(lines)
        )

    def numbers(self) -> Numbers:
        """Weights and biases of all steps, and how many are not 0."""
        total = Numbers()
        for step in self.layers:
            total += step.numbers()
        return total

    def forward(self, *images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Float images [b, c, h, w] -> float logits [b, classes].

        In one call where there is a plan for the images' size and nobody watches the steps
        (`runtime.plan`), step by step elsewhere; the answers are the same.

        Raises:
            ValueError: for another number of inputs.
        """
        if len(images) != len(self.images):
            raise ValueError(f"expected {len(self.images)} inputs, got {len(images)}")
        if torch.is_grad_enabled() and any(image.requires_grad for image in images):
            return self._past_autograd(images)
        plan = None if self._watched() else self.planned(images[0])
        if plan is None:
            return self.step_by_step(*images)
        results = plan(images[0], torch.get_num_threads())
        return results[0] if len(results) == 1 else results

    def _past_autograd(
        self, images: Sequence[torch.Tensor]
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The same answers, through which no gradient can be asked for."""
        asked = next(image for image in images if image.requires_grad)
        found = self(*(image.detach() for image in images))
        if isinstance(found, torch.Tensor):
            return ended(asked, found, "an integer network")
        return tuple(ended(asked, one, "an integer network") for one in found)

    def _watched(self) -> bool:
        # Past nn.Module's own look-ups, which cost a small network more than a layer.
        for layer in self._modules["layers"]._modules.values():
            if layer._forward_hooks or layer._forward_pre_hooks:
                return True
        return _has_any_global_hook() or torch.compiler.is_compiling()

    def planned(self, image: torch.Tensor) -> Callable | None:
        """The plan for images of this size, from the second time on that they come; else None.

        A plan is made of the steps as they are then. With another step in one's place it is made anew;
        whoever changes a step's own numbers clears `plans`.
        """
        if not suits(image):
            return None
        layers, shape = [*self._modules["layers"]._modules.values()], image.shape[1:]
        plans = self.plans
        if plans.get("steps") != layers:
            plans = self.plans = {"steps": layers}
        plan = plans.get(shape, self)
        if plan is self:  # the first time: one image of a size is no reason to plan
            while len(plans) > MOST_PLANS:
                plans.pop(next(name for name in plans if name != "steps"), None)
            plans[shape] = "seen"
            return None
        if plan == "seen":
            from compresslab.runtime.plan import Plan

            plan = plans[shape] = Plan.of(self, tuple(shape))
        return plan

    def __getstate__(self) -> dict:
        """Without plans, which hold addresses: a copy makes its own."""
        return {**self.__dict__, "plans": {}}

    def __setstate__(self, state: dict) -> None:
        """Also of what was pickled before there were plans."""
        if "order" not in state:
            state = {**state, "order": state["plan"], "plans": {}}
        super().__setstate__(state)

    @torch.inference_mode()
    def step_by_step(self, *images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """One call for each step, as `forward` does where a step is watched or has no row in a plan."""
        results = dict(zip(self.images, images, strict=True))
        # Small networks take a tenth of a millisecond: what is done here for every step shows.
        layers = self.layers._modules.values()
        watched = _has_any_global_hook() or torch.compiler.is_compiling()
        for (name, inputs, finished), layer in zip(self.order, layers, strict=True):
            hooked = watched or layer._forward_hooks or layer._forward_pre_hooks
            run = layer if hooked else layer.forward
            if len(inputs) == 1:
                results[name] = run(results[inputs[0]])
            else:
                results[name] = run(*[results[one] for one in inputs])
            for one in finished:
                del results[one]
        if len(self.outputs) == 1:
            return results[self.outputs[0]]
        return tuple(results[name] for name in self.outputs)
