"""The normal form of a network's graph: every known operation is one module, however it was spelled.

    as people write it                                      in normal form
    F.relu(x), x.relu(), torch.relu(x), x.clamp(min=0)      nn.ReLU
    F.relu6(x), x.clamp(0, 6), F.hardtanh(x, 0, 6)          nn.Hardtanh
    x.view(x.size(0), -1), torch.flatten(x, 1), x.reshape   nn.Flatten
    x.mean((2, 3)), F.adaptive_avg_pool2d(x, 1)             nn.AdaptiveAvgPool2d(1), and nn.Flatten
    F.max_pool2d, F.avg_pool2d, F.interpolate, F.pad        the module of that name
    F.conv2d(x, self.weight), a subclass's own forward      nn.Conv2d on the same parameter; so nn.Linear
    F.dropout(x, p, self.training)                          nn.Dropout
    padding="same", padding that differs by side or mode    a padding module, and a convolution without
    ConvTranspose2d                                         zeros between the pixels, and a convolution
    AdaptiveAvgPool2d(7) on 14 x 14 pixels                  nn.AvgPool2d(2)
    x * 0.5 + 1, 1 - x                                      Affine
    a slice, a part of a split, a shuffle of channels       Select
    F.relu(F.max_pool2d(x, 2))                              the ReLU first, with its layer
    a + b, a * b, torch.cat([a, b], 1)                      operator.add, operator.mul, torch.cat

So whoever reads the graph (quantizers, converters, exporters) knows modules and three functions. A graph
comes from torch.fx; where that cannot follow a forward (Hugging Face's networks), from torch.export with an
example. Reshapes mean what the example's shapes say, and the form is held against the network on the example:
a rule that is wrong is an error here, never another answer later.

Left out: whatever has no rule stays as it is, for the reader to refuse by name.
"""

import contextlib
import io

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from compresslab.network.edit import plain_copy
from compresslab.network.graph import TracingError, limits_of, module_at, trace
from compresslab.network.rules import arithmetic, layers, shapes
from compresslab.network.rules.shapes import COPIES, reshape
from compresslab.network.rules.spellings import SIMPLE
from compresslab.network.rules.windows import plain_windows
from compresslab.network.select import refuse_hooks
from compresslab.network.writer import Writer, name_of

DROPOUTS = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "dropout_",
    "feature_dropout",
)
RULES = layers.RULES | arithmetic.RULES | shapes.RULES
"""What a call of that name becomes: a function of a `Writer` and the node."""
CLOSE = 1e-3
"""The share of the outputs' range by which the normal form may differ on the example: float rounding."""


def normal_form(model: nn.Module, example: torch.Tensor | None = None) -> fx.GraphModule:
    """A copy of the network in evaluation mode, as a graph in normal form.

    Args:
        model: any network; not changed.
        example: a batch that the network takes; with it reshapes are understood, networks that torch.fx
            cannot follow are tried by torch.export, and the form is held against the network.

    Raises:
        TracingError: if neither can follow the forward.
        ValueError: for an example that the network does not take, a dropout that is active in evaluation,
            layers that compute their weights, or a form that answers otherwise than the network.
    """
    copied = plain_copy(model).eval()
    refuse_hooks(model.named_modules())
    model = copied
    if example is not None:
        example = _three(example)
        wanted = _answers(model, example)
    try:
        traced = trace(model)
        _with_shapes(traced, example)
    except TracingError as error:
        if example is None:
            raise
        traced = _exported(model, example, error)
        _with_shapes(traced, example)
    try:
        _write(Writer(traced))
    except (
        RuntimeError
    ) as error:  # fx found a node without its tensor: one of a list of parameters, say
        raise TracingError(
            f"model cannot be written as a graph: {error}. Ways out: hold each layer's weight in a module of "
            "its own (nn.Linear, nn.Conv2d); or use what works layer by layer: convert_dynamic, "
            "weight_only.quantize"
        ) from error
    if example is not None:
        _prove(traced, example, wanted)
    return traced


def _with_shapes(traced: fx.GraphModule, example: torch.Tensor | None) -> None:
    """Note at every node the shape of its result on the example."""
    if example is None:
        return
    try:
        # What fails is said below; ShapeProp prints it as well.
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            ShapeProp(traced).propagate(example)
    except Exception as error:  # an input that is None, say, and is used all the same
        first = error.__cause__ or error
        raise TracingError(f"the graph does not run on the example: {first}") from error


def _answers(model: nn.Module, example: torch.Tensor) -> torch.Tensor:
    """What the network answers, as rows."""
    try:
        with torch.no_grad():
            output = model(example)
    except Exception as error:  # whatever a network of somebody else's raises
        raise ValueError(
            f"example must be a batch that the network takes; on three like it, it fails: {error}"
        ) from error
    return flat_outputs(output)


def _three(example: torch.Tensor) -> torch.Tensor:
    """A batch of three, a size that hardly any axis has: so that the batch's axis is known by its size.

    Floats are three different ones: what mixes examples would not show on equal ones.
    """
    if len(example) == 0:
        raise ValueError("example must hold at least one example, got 0")
    batch = example[:1].expand(3, *example.shape[1:]).contiguous()
    if not batch.is_floating_point() or batch.ndim == 1:
        return batch
    return batch * batch.new_tensor([1.0, 0.75, 0.5]).reshape(3, *[1] * (batch.ndim - 1))


def flat_outputs(output: object) -> torch.Tensor:
    """All tensors of an output as rows, [b, n]: what two networks that answer alike are compared by.

    Raises:
        ValueError: for tensors that do not all have the examples as their first axis.
    """
    if isinstance(output, torch.Tensor):
        return output.reshape(len(output), -1) if output.ndim else output.reshape(1, 1)
    values = output.values() if hasattr(output, "values") else output
    rows = [flat_outputs(v) for v in values if v is not None]
    if len({len(r) for r in rows}) != 1:
        shapes = ", ".join(str(list(v.shape)) for v in values if isinstance(v, torch.Tensor))
        raise ValueError(
            f"a network's outputs must all have the examples as their first axis, got {shapes}: wrap it in a "
            "module that returns the one that counts"
        )
    return torch.cat(rows, 1)


def _exported(model: nn.Module, example: torch.Tensor, reason: TracingError) -> fx.GraphModule:
    try:
        with torch.no_grad():
            found = torch.export.export(model, (example,), strict=False).module()
    except Exception as error:  # torch.export's errors have no common class
        raise TracingError(f"{reason}; torch.export could not either: {error}") from error
    # Without export's own calling convention (pytrees, guards): plain tensors in, a tuple out.
    graph = fx.Graph()
    graph.output(graph.graph_copy(found.graph, {}))
    for node in reversed(graph.nodes):
        if node.op == "call_module" and not node.users:
            graph.erase_node(node)  # export's check of its example
    return fx.GraphModule(found, graph, type(model).__name__).eval()


def _prove(traced: fx.GraphModule, example: torch.Tensor, wanted: torch.Tensor) -> None:
    if wanted.is_meta:  # shapes without numbers
        return
    try:
        with torch.no_grad():
            found = flat_outputs(traced(example))
    except Exception as error:  # a form that does not even run
        if not example.is_floating_point():
            raise ValueError(
                "model looks up words and computes with integers besides, which no graph of layers follows: "
                "its linear layers can have int8 inputs by Dynamic() or packed weights by Weights()"
            ) from error
        raise ValueError(f"model cannot be written as a graph: {error}") from error
    numbers = wanted[wanted.isfinite()]
    reach = float(numbers.max() - numbers.min()) if numbers.numel() else 0.0
    if found.shape != wanted.shape or not torch.allclose(
        found, wanted, rtol=1e-3, atol=CLOSE * reach + 1e-6, equal_nan=True
    ):
        raise ValueError(
            "model answers otherwise when it is written as a graph: does its forward depend on the size of "
            "the batch or on state that it keeps, or write into a part of a tensor (y[:, :4] = 0)?"
        )


def _write(write: Writer) -> None:
    for node in list(write.graph.nodes):
        _visit(write, node)
    _cuts_before_pooling(write)
    write.graph.eliminate_dead_code()
    for node in list(write.graph.nodes):
        if node.op == "placeholder" and not node.users and len(write.inputs()) > 1:
            write.graph.erase_node(node)
    write.one_output()
    write.graph.lint()
    write.traced.delete_all_unused_submodules()
    write.traced.recompile()


def _cuts_before_pooling(write: Writer) -> None:
    """max(cut(x)) = cut(max(x)): a cut behind a max pooling moves to the layer in front of it."""
    for node in list(write.graph.nodes):
        cut = module_at(node, write.modules)
        pool = node.args[0] if limits_of(cut) is not None else None
        if pool is None or len(pool.users) > 1:
            continue
        if isinstance(module_at(pool, write.modules), nn.MaxPool2d):
            source = pool.args[0]
            with write.graph.inserting_before(pool):
                moved = write.graph.call_module(str(node.target), (source,))
            pool.args = (moved,)
            write.swap(node, pool)


def _visit(write: Writer, node: fx.Node) -> None:
    name, module = name_of(node), module_at(node, write.modules)
    if module is not None:
        plain_windows(write, node, module)
    elif not name:
        return
    elif name in SIMPLE and isinstance(node.args[0] if node.args else None, fx.Node):
        _simple(write, node, name)
    elif name in DROPOUTS:
        _dropout(write, node, name)
    elif name in RULES:
        RULES[name](write, node)
    elif name in COPIES or (name in ("to", "float", "_to_copy", "type_as") and _same(write, node)):
        write.swap(node, node.args[0])
    else:
        reshape(write, node, name)


def _same(write: Writer, node: fx.Node) -> bool:
    """Whether a conversion changes nothing, as far as the example shows."""
    one, other = (n.meta.get("tensor_meta") for n in (node, node.args[0]))
    return one is not None and other is not None and one.dtype == other.dtype


def _simple(write: Writer, node: fx.Node, name: str) -> None:
    arguments = [write.constant(a) for a in node.args[1:]]
    named = {key: write.constant(a) for key, a in node.kwargs.items()}
    if any(isinstance(a, fx.Node) for a in (*arguments, *named.values())):
        return
    try:
        module = SIMPLE[name](*arguments, **named)
    except (TypeError, ValueError):
        return
    if module is not None:
        at = write.put(node, module, node.args[0])
        write.swap(node, at)
        plain_windows(write, at, module)


def _dropout(write: Writer, node: fx.Node, name: str) -> None:
    given = dict(zip(("p", "training"), node.args[1:], strict=False)) | dict(node.kwargs)
    training = given.get("training", given.get("train", True))
    if training:
        raise ValueError(
            f"node {node.name!r} is a dropout that is active in evaluation, too: give it "
            "training=write.training, or use nn.Dropout"
        )
    kind = nn.Dropout2d if name == "dropout2d" else nn.Dropout
    write.becomes(node, kind(float(given.get("p", 0.5))))
