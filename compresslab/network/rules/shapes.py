"""What moves numbers and computes none: reshapes, slices, permutations, concatenations, means over pixels.

    x.view(len(x), -1), torch.flatten(x, 1)    nn.Flatten
    x[:, a:b], torch.chunk, torch.split        Select, of channels
    view, transpose, view back                 Select: a shuffle of channels
    x.permute(0, 2, 3, 1) and back             ChannelsLast, ChannelsFirst
    x.mean((2, 3))                             nn.AdaptiveAvgPool2d(1), and nn.Flatten

Reshapes mean what the example's shapes say; its batch of three tells the batch's axis from the others.
"""

import torch
from torch import fx, nn

from compresslab.network.modules import ChannelsFirst, ChannelsLast, Select
from compresslab.network.writer import Writer, name_of, shape_of

RESHAPES = (
    *("view", "reshape", "flatten", "squeeze", "squeeze_", "_unsafe_view", "unflatten"),
    *("unsqueeze", "unsqueeze_"),
)
COPIES = ("contiguous", "clone", "detach", "detach_", "alias", "lift_fresh_copy")


def _concatenation(write: Writer, node: fx.Node) -> None:
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | dict(node.kwargs)
    parts = given.get("tensors", ())
    if not isinstance(parts, list | tuple):
        return  # all parts of a split at once
    dim, shape = given.get("dim", given.get("axis", 0)), shape_of(node)
    dim = dim % len(shape) if shape and isinstance(dim, int) else dim
    channels = shape is None or len(shape) in (2, 4)
    if channels and all(isinstance(p, fx.Node) for p in parts) and dim == 1:
        write.function(node, torch.cat, list(parts), 1)


def _mean(write: Writer, node: fx.Node) -> None:
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims, shape = given.get("dim", given.get("axis")), shape_of(node.args[0])
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple):
        return
    rank = len(shape) if shape else 4
    if sorted(d % rank for d in dims) == [2, 3] and rank == 4:
        modules = [nn.AdaptiveAvgPool2d(1), *([] if given.get("keepdim") else [nn.Flatten()])]
        write.becomes(node, *modules)


def reshape(write: Writer, node: fx.Node, name: str) -> None:
    """What flattens an image is nn.Flatten; what moves nothing is nothing."""
    if name not in RESHAPES or not node.args or not isinstance(node.args[0], fx.Node):
        return
    if write.tensor(node.args[0]) is not None:
        _fold(write, node)
        return
    if _shuffles(write, node):
        return
    before, after = shape_of(node.args[0]), shape_of(node)
    if before is None or after is None:
        if (name == "flatten" and _flattens(write, node)) or (
            name in ("view", "reshape") and _by_batch(write, node)
        ):
            write.becomes(node, nn.Flatten())
        return
    if before == after:
        write.swap(node, node.args[0])
    elif len(after) == 2 and after[0] == before[0] == 3:
        write.becomes(node, nn.Flatten())
    elif len(before) == 2 and len(after) == 4 and after[0] == before[0] == 3:
        write.becomes(node, nn.Unflatten(1, after[1:]))
    elif _is_pixel(write, node, before, after):
        # One number per channel, with or without axes of one pixel.
        pixel = len(after) == 4
        write.becomes(node, nn.Unflatten(1, after[1:]) if pixel else nn.Flatten())


def _is_pixel(
    write: Writer, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]
) -> bool:
    """Whether axes of length 1 come or go; three axes only on the way to two or four."""
    if before[0] != 3 or _channels(before) is None or _channels(before) != _channels(after):
        return False
    on_the_way = (
        name_of(user) in RESHAPES and len(shape_of(user) or ()) in (2, 4) for user in node.users
    )
    return len(after) != 3 or all(on_the_way)


def _fold(write: Writer, node: fx.Node) -> None:
    """A reshape of a parameter is a parameter."""
    held = write.tensor(node.args[0])
    with torch.no_grad():
        given = (held, *node.args[1:])
        found = (
            getattr(held, str(node.target))(*node.args[1:], **node.kwargs)
            if node.op == "call_method"
            else node.target(*given, **node.kwargs)
        )
    name = f"{node.name}_folded"
    write.traced.register_buffer(name, found.detach().clone())
    with write.graph.inserting_before(node):
        made = write.graph.get_attr(name)
    made.meta = dict(node.meta)
    write.swap(node, made)


def _shuffles(write: Writer, node: fx.Node) -> bool:
    """Channels in groups, groups and members exchanged, and back: one `Select`."""
    turn = node.args[0]
    if name_of(turn) in COPIES:
        turn = turn.args[0]
    split = turn.args[0] if turn.args and isinstance(turn.args[0], fx.Node) else None
    if name_of(turn) not in ("transpose", "permute") or name_of(split or turn) not in RESHAPES:
        return False
    source = split.args[0]
    before, groups, turned, after = map(shape_of, (source, split, turn, node))
    wanted = None not in (before, groups, turned, after) and len(groups) == 5
    if not wanted or before != after or len(before) != 4:
        return False
    if turned != (groups[0], groups[2], groups[1], *groups[3:]) or groups[3:] != before[2:]:
        return False
    places = torch.arange(before[1]).reshape(groups[1], groups[2]).T.reshape(-1).tolist()
    write.becomes(node, Select(places), source=source)
    return True


def _permuted(write: Writer, node: fx.Node) -> None:
    """Channels to the end, or back to their place."""
    before, after = shape_of(node.args[0]), shape_of(node)
    if before is None or len(before) != 4 or name_of(node) != "permute":
        return
    order = node.args[1:] if len(node.args) > 2 else node.args[1]
    order = [d % 4 for d in order]
    kinds = {(0, 2, 3, 1): ChannelsLast, (0, 3, 1, 2): ChannelsFirst}
    kind = kinds.get(tuple(order))
    if kind is None or after is None:
        return
    write.becomes(node, kind())


def _part(write: Writer, node: fx.Node) -> None:
    """Some of the channels: x[:, a:b], a part of torch.chunk or split, x[:, :, None, None]."""
    name, source = name_of(node), node.args[0]
    before, after = shape_of(source), shape_of(node)
    if name in ("chunk", "split", "split_with_sizes", "slice"):
        _slices(write, node, name)
    elif before is not None and after is not None:
        index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        full = [i == slice(None) for i in index]
        if full[:2] == [True, True] and _channels(before) == _channels(after) is not None:
            reshape(write, node, "squeeze")
        elif None in index and all(f or i is None for f, i in zip(full, index, strict=True)):
            reshape(write, node, "unsqueeze")
        elif (
            len(before) in (2, 4)
            and len(index) > 1
            and isinstance(index[1], slice)
            and full[0]
            and all(full[2:])
        ):
            write.becomes(node, Select(range(*index[1].indices(before[1]))))


def _slices(write: Writer, node: fx.Node, name: str) -> None:
    source = node.args[0]
    before = shape_of(source)
    if before is None:
        return
    if name == "slice":
        given = node.args[1:4]
        dim, start, end = (*given, *(0, 0, None)[len(given) :])
        if dim == 1 and not node.kwargs and len(node.args) < 5 and len(before) in (2, 4):
            write.becomes(node, Select(range(*slice(start, end).indices(before[1]))))
        elif shape_of(node) == before:
            write.swap(node, source)
        return
    given = dict(zip(("size", "dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    dim = given.get("dim", 0)
    size = given.get("size", given.get("chunks", given.get("split_size_or_sections")))
    if dim != 1 or len(before) not in (2, 4) or not isinstance(size, int | list | tuple):
        return  # of tokens [b, length, width] the second axis holds no channels
    places = torch.arange(before[1])
    parts = torch.chunk(places, size) if name == "chunk" else torch.split(places, size)
    for user in list(node.users):
        if name_of(user) != "getitem" or not isinstance(user.args[1], int):
            return
        at = write.put(user, Select(parts[user.args[1]].tolist()), source)
        write.swap(user, at)


def _flattens(write: Writer, node: fx.Node) -> bool:
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return given.get("start_dim", 0) == 1 and given.get("end_dim", -1) == -1


def _by_batch(write: Writer, node: fx.Node) -> bool:
    """`x.view(x.size(0), -1)` and `x.view(x.shape[0], -1)`."""
    sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
    if not isinstance(sizes, list | tuple) or len(sizes) != 2 or sizes[1] != -1:
        return False
    first = sizes[0]
    if not isinstance(first, fx.Node):
        return False
    if name_of(first) == "size":
        return first.args == (node.args[0], 0)
    of = first.args[0] if name_of(first) == "getitem" and first.args[1] == 0 else None
    return isinstance(of, fx.Node) and (
        of.args == (node.args[0], "shape") or (name_of(of) == "size" and of.args == (node.args[0],))
    )


def _channels(shape: tuple[int, ...]) -> int | None:
    """How many channels a result of one number per channel has: [b, c], [b, c, 1] and [b, c, 1, 1]."""
    one = len(shape) in (2, 3, 4) and all(n == 1 for n in shape[2:])
    return shape[1] if one else None


RULES = {
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenation),
    **dict.fromkeys(("permute", "transpose", "transpose_"), _permuted),
    **dict.fromkeys(("getitem", "slice", "chunk", "split", "split_with_sizes"), _part),
    "mean": _mean,
}
