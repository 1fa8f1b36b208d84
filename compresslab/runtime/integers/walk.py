"""A walk over a prepared graph: what each node's result is in the integer network, and the steps so far.

source, require     what a node reads, which must be codes
follow, behind      what belongs to a layer behind it (norms, a cut, a quantizer), and its codes
step, line          a new step, under the name of the node whose result it gives
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from compresslab.network.graph import Chain, chain_behind, module_at
from compresslab.runtime.integers.known import ConversionError
from compresslab.runtime.integers.sums import code_of
from compresslab.runtime.program import Line
from compresslab.runtime.steps import between
from compresslab.runtime.steps.step import Codes, Step
from compresslab.techniques.quantizer import ActivationQuantizer


@dataclass
class Value:
    """What a node of the graph is in the integer network: a step's name and what its codes mean.

    `codes` is None for floats; `image` is whether it has pixels, None where nobody has said so; `last`:
    whether channels come last in the network, too.
    """

    step: str
    codes: Codes | None
    image: bool | None
    last: bool = False


class Walk:
    """The values, lines and steps of a network that is being converted."""

    def __init__(self, prepared: fx.GraphModule) -> None:
        self.modules = dict(prepared.named_modules())
        self.graph = prepared.graph
        self.values: dict[fx.Node, Value] = {}
        self.absorbed: set[fx.Node] = set()
        self.lines: list[Line] = []
        self.steps: list[Step] = []
        self.images = 0

    def step(
        self,
        node: fx.Node,
        step: Step,
        sources: Sequence[fx.Node],
        codes: Codes | None,
        image: bool | None,
    ) -> None:
        """Add a step that computes a node's result of the results of `sources`."""
        read = [self.values[s] for s in sources]
        self.line(node.name, step, [value.step for value in read])
        last = read[0].last and not image
        self.values[node] = Value(node.name, codes, image, last)

    def line(self, name: str, step: Step, sources: Sequence[str]) -> None:
        """Add a step under a name of its own."""
        self.lines.append(Line(name, tuple(sources)))
        self.steps.append(step)

    def follow(self, node: fx.Node) -> tuple[Chain, fx.Node, Codes | None]:
        """What belongs to a layer, its end with its quantizer, and what its codes mean."""
        chain = chain_behind(node, self.modules)
        self.absorbed.update(chain.nodes)
        users = list(chain.end.users)
        module = module_at(users[0], self.modules) if len(users) == 1 else None
        if not isinstance(module, ActivationQuantizer):
            return chain, chain.end, None
        self.absorbed.add(users[0])
        return chain, users[0], self.codes_of(users[0], module, chain)

    def codes_of(
        self, node: fx.Node, quantizer: ActivationQuantizer, chain: Chain | None = None
    ) -> Codes:
        """What a quantizer's codes mean, within the limits of the cuts in front of it."""
        if quantizer.dynamic:
            raise ConversionError(
                f"quantizer {node.name!r} is dynamic: a fixed integer network needs calibrated ranges"
            )
        p = quantizer.qparams()
        scale, zero, low, high = float(p.scale), int(p.zero_point), p.grid.low, p.grid.high
        if chain is not None and chain.cuts:
            low = max(low, code_of(chain.low, scale, zero))
            high = min(high, code_of(chain.high, scale, zero))
        return Codes(scale, zero, low, max(low, high))

    def behind(self, node: fx.Node) -> tuple[fx.Node, Codes]:
        """The end of what follows something without weights, and its codes."""
        chain, end, out = self.follow(node)
        if chain.norms:
            raise ConversionError(f"a norm behind {node.name!r} belongs to no layer")
        return end, self.require(out, node)

    def require(self, codes: Codes | None, node: fx.Node) -> Codes:
        """Codes; raises ConversionError for floats."""
        if codes is None:
            raise ConversionError(
                f"the result of {node.name!r} is not quantized: prepare with activation_bits set"
            )
        return codes

    def source(self, node: fx.Node, place: int = 0) -> tuple[fx.Node, Value, Codes]:
        """What a node reads, which must be codes."""
        read = node.args[place]
        return read, self.values[read], self.require(self.values[read].codes, read)

    def as_floats(self, node: fx.Node, value: Value) -> str:
        """The name of the step that gives a value in floats, added if there is none."""
        if value.codes is None:
            return value.step
        name = f"{node.name}_floats"
        if name not in [line.name for line in self.lines]:
            step = between.Dequantize(value.codes, int(value.last))
            self.line(name, step, (value.step,))
        return name
