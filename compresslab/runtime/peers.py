"""Other people's int8 engines, to measure beside: torch's own, and ONNX Runtime's.

Only for comparison: torch's quantization tools are deprecated and will go; ONNX Runtime is an extra
(`pip install compresslab[peers]`). Each function takes a float network and calibration images and returns
something callable on a batch.
"""

import contextlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

Runner = Callable[[torch.Tensor], torch.Tensor]


def onnxruntime_available() -> bool:
    """Whether the packages for ONNX Runtime are installed."""
    names = ("onnx", "onnxruntime", "onnxscript")
    return all(importlib.util.find_spec(name) is not None for name in names)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings and progress reports of exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def torch_int8(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Torch's static int8 network (x86 engine, weights one scale a channel)."""
    with _quietly():
        from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

        torch.backends.quantized.engine = "x86"
        mapping = get_default_qconfig_mapping("x86")
        example = (images[:1],)
        prepared = quantize_fx.prepare_fx(model.eval(), mapping, example)
        with torch.no_grad():
            prepared(images)
        return quantize_fx.convert_fx(prepared)


def torch_dynamic(layer: nn.Module) -> nn.Module:
    """A dynamic int8 version of a linear layer by torch (x86 engine)."""
    with _quietly():
        torch.backends.quantized.engine = "x86"
        wrapped = nn.Sequential(layer)
        return torch.ao.quantization.quantize_dynamic(wrapped, {nn.Linear}, dtype=torch.qint8)


def export_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a float ONNX file with a free batch size."""
    example = torch.zeros(2, *shape)
    batch = torch.export.Dim("batch")
    with _quietly(), contextlib.redirect_stdout(None):
        torch.onnx.export(
            model.eval(),
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )


class OnnxModel:
    """An ONNX Runtime session on one file, callable like a network."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.name = self.session.get_inputs()[0].name
        self.bytes_disk = path.stat().st_size

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of a batch."""
        return torch.from_numpy(self.session.run(None, {self.name: x.numpy()})[0])


def onnxruntime_float(model: nn.Module, shape: tuple[int, ...]) -> OnnxModel:
    """The float network in ONNX Runtime, with torch's number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_onnx(model, shape, path)
        return OnnxModel(path, torch.get_num_threads())


def onnxruntime_int8(model: nn.Module, images: torch.Tensor) -> OnnxModel:
    """ONNX Runtime's static int8 network (QDQ, uint8 activations, int8 weights, a scale a channel)."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
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
        export_onnx(_Named(model), tuple(images.shape[1:]), source)
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
