"""ONNX Runtime on single operations, as a peer in races."""

from collections.abc import Callable

import onnxruntime
import torch
from onnx import TensorProto, helper


def onnx_session(graph: object) -> onnxruntime.InferenceSession:
    """A session on as many threads as torch has."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def onnx_product(a: torch.Tensor, b: torch.Tensor) -> Callable[[], object]:
    """ONNX Runtime's a @ b in float32."""
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, list(b.shape), b.numpy().tobytes(), raw=True
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, a.shape[1]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, b.shape[1]])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    session = onnx_session(helper.make_graph([node], "product", [x], [y], [weight]))
    feed = {"x": a.numpy()}
    return lambda: session.run(None, feed)


def onnx_convolution(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """ONNX Runtime's 'same' convolution with a 3x3 kernel in float32."""
    tensor = helper.make_tensor(
        "w", TensorProto.FLOAT, list(weight.shape), weight.numpy().tobytes(), raw=True
    )
    inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, *x.shape[1:]])
    shape = [None, len(weight), *x.shape[2:]]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    session = onnx_session(helper.make_graph([node], "conv", [inputs], [output], [tensor]))
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)
