"""Other people's int8 engines, to measure beside: torch's own, and ONNX Runtime's.

Only for comparison: torch's quantization tools are deprecated and will go; ONNX Runtime is an extra
(`pip install compresslab[peers]`). Each function takes a float network and calibration images and returns
something callable on a batch.
"""

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compresslab.runtime.export import export_float, quietly

Runner = Callable[[torch.Tensor], torch.Tensor]


def onnxruntime_available() -> bool:
    """Whether the packages for ONNX Runtime are installed."""
    names = ("onnx", "onnxruntime", "onnxscript")
    return all(importlib.util.find_spec(name) is not None for name in names)


def torch_int8(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Torch's static int8 network (x86 engine, weights one scale a channel)."""
    with quietly():
        from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

        torch.backends.quantized.engine = "x86"
        mapping = get_default_qconfig_mapping("x86")
        example = (images[:1],)
        prepared = quantize_fx.prepare_fx(copy.deepcopy(model).eval(), mapping, example)
        with torch.no_grad():
            prepared(images)
        return quantize_fx.convert_fx(prepared)


def torch_dynamic(layer: nn.Module) -> nn.Module:
    """A dynamic int8 version of a linear layer by torch (x86 engine)."""
    with quietly():
        torch.backends.quantized.engine = "x86"
        wrapped = nn.Sequential(layer)
        return torch.ao.quantization.quantize_dynamic(wrapped, {nn.Linear}, dtype=torch.qint8)


class OnnxModel(nn.Module):
    """An ONNX Runtime session on one file: a network like any other."""

    def __init__(self, path: Path, threads: int) -> None:
        """Args: the file, read once and kept; threads inside an operator."""
        import onnxruntime

        super().__init__()
        self.file = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(self.file, options, providers=providers)
        self.name = self.session.get_inputs()[0].name
        self.bytes_disk = len(self.file)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Logits of a batch; a tuple of all outputs where there are several."""
        found = self.session.run(None, {self.name: x.detach().contiguous().numpy()})
        outputs = tuple(torch.from_numpy(one) for one in found)
        return outputs[0] if len(outputs) == 1 else outputs


def onnxruntime_float(model: nn.Module, shape: tuple[int, ...]) -> OnnxModel:
    """The float network in ONNX Runtime, with torch's number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(model, shape, path)
        return OnnxModel(path, torch.get_num_threads())


def onnxruntime_int8(model: nn.Module, images: torch.Tensor) -> OnnxModel:
    """ONNX Runtime's static int8 network (QDQ, uint8 activations, int8 weights, a scale a channel)."""
    with tempfile.TemporaryDirectory() as folder, quietly():
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Images(CalibrationDataReader):
            def __init__(self) -> None:
                self.parts = iter(images.split(100))

            def get_next(self) -> dict[str, np.ndarray] | None:
                part = next(self.parts, None)
                return None if part is None else {"x": part.numpy()}

        source, ready, target = (Path(folder) / f"{n}.onnx" for n in ("float", "ready", "int8"))
        export_float(_Named(model), tuple(images.shape[1:]), source)
        quant_pre_process(str(source), str(ready))
        quantize_static(
            str(ready),
            str(target),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return OnnxModel(target, torch.get_num_threads())


class _Named(nn.Module):
    """The network with its input called x, as the calibration reader names it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)
