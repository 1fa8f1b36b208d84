"""How each kind of step is called in C: its constants onto the sheet, its call as text.

A call has the input's place and shape, the step's numbers, and the result's place and shape; the functions
are those of `c_steps.c`. A kind of step that is not in WRITERS has no C file.
"""

import math
from collections.abc import Callable

from compresslab.runtime.arena import LARGEST, comes_last
from compresslab.runtime.c_text import NotForC, Sheet, codes_of, number, shape_of
from compresslab.runtime.program import IMAGE
from compresslab.runtime.steps.step import Step

Call = Callable[[Sheet, Step, object, int], str]


def _quantize(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("quantize")
    # As they lie, numbers are those of one pixel with as many channels.
    image = (1, 1, math.prod(w.results[line.name])) if step.last else w.results[line.name]
    inverse = number(step.inverse[0])
    out = f"{codes_of(step.codes)}, {w.buffer(line.name)}"
    if line.inputs != (IMAGE,):
        raise NotForC(f"step {line.name!r} quantizes floats between layers")
    return f"if (quantize(image, {shape_of(image)}, {inverse}, {out})) return 1;"


def _window(height: int, width: int, step: Step) -> str:
    return f"(Window){{{height}, {width}, {step.stride}, {step.stride}, {step.padding}, {step.padding}}}"


def _convolution(kind: str) -> Call:
    def write(w: Sheet, step: Step, line: object, index: int) -> str:
        w.use(kind)
        codes = step.codes()
        taps = codes.shape[:2] if kind == "depthwise" else codes.shape[1:3]
        weights, bits = w.weight(f"weight_{index}", codes, step.weight_bits)
        bias = w.whole(f"bias_{index}", step.bias.numpy())
        factor = w.floats(f"factor_{index}", step.multiplier.numpy())
        source = line.inputs[0]
        return (
            f"{kind}({w.buffer(source)}, {shape_of(w.results[source])}, {step.zero_point}, {weights}, "
            f"{bits}, {_window(*taps, step)},\n        {bias}, {factor}, {codes_of(step.out)}, "
            f"{w.buffer(line.name)}, {shape_of(w.results[line.name])});"
        )

    return write


def _linear(w: Sheet, step: Step, line: object, index: int) -> str:
    """A linear layer is a convolution of one pixel."""
    w.use("conv2d")
    source = line.inputs[0]
    height, width, channels = w.results[source]
    weights, bits = w.weight(f"weight_{index}", step.codes(), step.weight_bits)
    bias = w.whole(f"bias_{index}", step.bias.numpy())
    factor = w.floats(f"factor_{index}", step.multiplier.numpy())
    return (
        f"conv2d({w.buffer(source)}, {shape_of((height, width, channels))}, {step.zero_point}, {weights}, "
        f"{bits}, (Window){{1, 1, 1, 1, 0, 0}},\n        {bias}, {factor}, {codes_of(step.out)}, "
        f"{w.buffer(line.name)}, {shape_of(w.results[line.name])});"
    )


def _logits(w: Sheet, step: Step, line: object, index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    source = line.inputs[0]
    height, width, inputs = w.results[source]
    if height * width != 1:
        raise NotForC(f"step {line.name!r} gives an answer for every pixel")
    w.use("logits_of")
    weights, bits = w.weight(f"weight_{index}", step.codes(), step.weight_bits)
    scale, bias = (w.floats(f"{n}_{index}", getattr(step, n).numpy()) for n in ("scale", "bias"))
    outputs = w.results[line.name][2]
    return (
        f"logits_of({w.buffer(source)}, {inputs}, {step.zero_point}, {weights}, {bits}, {scale}, {bias}, "
        f"{outputs}, logits);"
    )


def _conv_logits(w: Sheet, step: Step, line: object, index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    w.use("conv_logits")
    codes = step.codes()
    weights, bits = w.weight(f"weight_{index}", codes, step.weight_bits)
    scale, bias = (w.floats(f"{n}_{index}", getattr(step, n).numpy()) for n in ("scale", "bias"))
    source = line.inputs[0]
    return (
        f"conv_logits({w.buffer(source)}, {shape_of(w.results[source])}, {step.zero_point}, {weights}, "
        f"{bits}, {_window(*codes.shape[1:3], step)},\n        {scale}, {bias}, logits, "
        f"{shape_of(w.results[line.name])});"
    )


def _from_to(w: Sheet, line: object) -> tuple[str, str, str, str]:
    source = line.inputs[0]
    return (
        w.buffer(source),
        shape_of(w.results[source]),
        w.buffer(line.name),
        shape_of(w.results[line.name]),
    )


def _windows(step: Step) -> str:
    names = ("height", "width", "down", "across", "top", "left")
    return f"(Window){{{', '.join(str(getattr(step, n)) for n in names)}}}"


def _max_pool(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("max_pool")
    x, s, y, to = _from_to(w, line)
    window = (
        _windows(step)
        if step.kind == "max_pool_windows"
        else f"(Window){{{step.size}, {step.size}, {step.size}, {step.size}, 0, 0}}"
    )
    return f"max_pool({x}, {s}, {window}, {y}, {to});"


def _mean_pool(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("mean_pool")
    x, s, y, _ = _from_to(w, line)
    height, width, _ = w.results[line.inputs[0]]
    if 255 * height * width > LARGEST:
        raise NotForC(f"step {line.name!r} adds up more pixels than 32 bits hold")
    factor = number(step.scale / (height * width * step.out.scale))
    return f"mean_pool({x}, {s}, {step.zero_point}, {factor}, {codes_of(step.out)}, {y});"


def _mean_windows(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("mean_windows")
    x, s, y, to = _from_to(w, line)
    factor = number(step.scale / step.out.scale)
    return (
        f"mean_windows({x}, {s}, {_windows(step)}, {step.zero_point}, {int(step.padded)}, {factor}, "
        f"{codes_of(step.out)}, {y}, {to});"
    )


def _two(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use(step.kind)
    (a, sa), (b, sb) = ((w.buffer(n), shape_of(w.results[n])) for n in line.inputs)
    to = w.results[line.name]
    end = f"{codes_of(step.out)}, {w.buffer(line.name)}, {shape_of(to)}"
    if step.kind == "multiply":
        factor = number(step.scale * step.scale_b / step.out.scale)
        zeros = (step.zero_point, step.zero_point_b)
        return f"multiply({a}, {sa}, {zeros[0]}, {b}, {sb}, {zeros[1]}, {factor}, {end});"
    one, other = (number(s / step.out.scale) for s in (step.scale, step.scale_b))
    return (
        f"add({a}, {sa}, {step.zero_point}, {one}, {b}, {sb}, {step.zero_point_b}, {other}, {end});"
    )


def _table(w: Sheet, step: Step, line: object, index: int) -> str:
    w.use("look_up")
    x, _, y, _ = _from_to(w, line)
    height, width, channels = w.results[line.name]
    table = w.bytes(f"table_{index}", step.table.numpy())
    return f"look_up({x}, {height * width}, {channels}, {table}, {len(step.table)}, {y});"


def _concatenate(w: Sheet, step: Step, line: object, index: int) -> str:
    w.use("side_by_side")
    table = w.bytes(f"table_{index}", step.table.numpy())
    calls, first = [], 0
    all_channels = w.results[line.name][2]
    for i, name in enumerate(line.inputs):
        image = w.results[name]
        calls.append(
            f"side_by_side({w.buffer(name)}, {shape_of(image)}, {table} + {256 * i}, {first}, "
            f"{all_channels}, {w.buffer(line.name)});"
        )
        first += image[2]
    return "\n    ".join(calls)


def _pad(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("pad")
    x, s, y, to = _from_to(w, line)
    mode = ("constant", "reflect", "edge").index(step.mode)
    height, width, _ = w.results[line.inputs[0]]
    if mode == 1 and max(step.top, step.bottom) >= height + (height == 1):
        raise NotForC(f"step {line.name!r} mirrors more rows than there are")
    if mode == 1 and max(step.left, step.right) >= width + (width == 1):
        raise NotForC(f"step {line.name!r} mirrors more columns than there are")
    return f"pad({x}, {s}, {step.top}, {step.left}, {mode}, {step.zero_point}, {y}, {to});"


def _spread(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("spread")
    x, s, y, to = _from_to(w, line)
    return f"spread({x}, {s}, {step.down}, {step.across}, {step.zero_point}, {y}, {to});"


def _upsample(w: Sheet, step: Step, line: object, _index: int) -> str:
    w.use("upsample")
    x, s, y, to = _from_to(w, line)
    return f"upsample({x}, {s}, {step.down}, {step.across}, {y}, {to});"


def _flatten(w: Sheet, _step: Step, line: object, _index: int) -> str:
    w.use("flatten")
    x, s, y, _ = _from_to(w, line)
    return f"flatten({x}, {s}, {y});"


def _unflatten(w: Sheet, _step: Step, line: object, _index: int) -> str:
    w.use("unflatten")
    x, _, y, to = _from_to(w, line)
    return f"unflatten({x}, {y}, {to});"


def _select(w: Sheet, step: Step, line: object, index: int) -> str:
    w.use("chosen")
    x, _, y, _ = _from_to(w, line)
    height, width, channels = w.results[line.inputs[0]]
    picked = w.whole(f"places_{index}", step.places.numpy())
    return f"chosen({x}, {height * width}, {channels}, {picked}, {step.places.numel()}, {y});"


def _dequantize(w: Sheet, step: Step, line: object, _index: int) -> str:
    if line.name != w.program.outputs[0]:
        raise NotForC(f"step {line.name!r} gives floats that are not the network's answer")
    w.use("dequantize")
    source = line.inputs[0]
    numbers = f"{step.codes.zero_point}, {number(step.codes.scale)}"
    # As they lie, numbers are those of one pixel with as many channels.
    image = (1, 1, math.prod(w.results[source])) if comes_last(step) else w.results[source]
    return f"dequantize({w.buffer(source)}, {shape_of(image)}, {numbers}, logits);"


ENDS = ("logits", "conv_logits", "dequantize")
"""What gives floats, and so ends a network."""
WRITERS: dict[str, Call] = {
    "quantize": _quantize,
    "conv2d": _convolution("conv2d"),
    "depthwise": _convolution("depthwise"),
    "linear": _linear,
    "logits": _logits,
    "conv_logits": _conv_logits,
    "max_pool": _max_pool,
    "max_pool_windows": _max_pool,
    "mean_pool": _mean_pool,
    "mean_windows": _mean_windows,
    "add": _two,
    "multiply": _two,
    "table": _table,
    "concatenate": _concatenate,
    "pad": _pad,
    "spread": _spread,
    "upsample": _upsample,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "select": _select,
    "dequantize": _dequantize,
}
"""How each kind of step is written; other kinds have no C function."""
