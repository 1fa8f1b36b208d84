"""What stands between a QDQ file and TensorRT, NVIDIA's engine, by its documentation.

TensorRT reads ONNX files with QuantizeLinear and DequantizeLinear ("Explicit Quantization" and "Working with
Quantized Types" in its documentation) where

    the codes are int8                         neither uint8 nor int32: biases stay floats
    every zero point is 0                      symmetric quantization only
    weights lie in -127 .. 127, with a scale for each output; activations have one scale

`export_int8(..., signed=True)` writes such files. Nothing is run here: TensorRT needs an NVIDIA GPU, and the
command is `trtexec --onnx=FILE --stronglyTyped`.
"""

from pathlib import Path

import numpy as np


def obstacles(path: Path) -> list[str]:
    """What TensorRT would refuse in the quantizing nodes of an ONNX file, a line each; empty if nothing.

    Only QuantizeLinear and DequantizeLinear are looked at, at the top level of the graph.

    Raises:
        ModuleNotFoundError: without the package onnx.
        FileNotFoundError: if there is no such file.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    found = []
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            why = _wrong_with(node, constants)
            found += [f"{node.op_type} of {node.input[0]}: {what}" for what in why]
    return found


def _wrong_with(node: object, constants: dict[str, np.ndarray]) -> list[str]:
    given = constants.get(node.input[0])
    scale = constants.get(node.input[1])
    zero = constants.get(node.input[2]) if len(node.input) > 2 else None
    codes = zero if given is None else given
    why = []
    if codes is None or codes.dtype != np.int8:
        kind = "uint8" if codes is None else codes.dtype
        why.append(f"codes are {kind}, not int8")
    if zero is not None and np.any(zero != 0):
        why.append("its zero point is not 0")
    if scale is None or not np.all(scale > 0):
        why.append("its scale is no positive constant")
    if given is not None and given.dtype == np.int8 and given.min(initial=0) < -127:
        why.append("a weight is -128")
    if given is None and scale is not None and scale.size != 1:
        why.append("activations must have one scale")
    return why
