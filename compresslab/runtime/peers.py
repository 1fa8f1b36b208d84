"""Other people's engines, to compare with: torch's own int8, ONNX Runtime's, and llama.cpp.

Only for comparison: torch's quantization tools are deprecated and will go; ONNX Runtime and llama.cpp are an
extra (`pip install compresslab[peers]`). Each function of the first two takes a float network and calibration
images and returns something callable on a batch; llama.cpp takes a GGUF file and keeps its own time.
"""

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
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
    """A dynamic int8 version of linear layers, LSTM and GRU by torch (x86 engine)."""
    with quietly():
        torch.backends.quantized.engine = "x86"
        wrapped = nn.Sequential(layer)
        return torch.ao.quantization.quantize_dynamic(
            wrapped, {nn.Linear, nn.LSTM, nn.GRU}, dtype=torch.qint8
        )


class OnnxModel(nn.Module):
    """An ONNX Runtime session on one file: a network like any other."""

    def __init__(self, path: Path, threads: int, exact: bool = False) -> None:
        """The file is read once and kept.

        Args:
            path: of the file.
            threads: inside an operator.
            exact: whether the graph is run as it is written: codes are made floats, multiplied and rounded
                again, slowly, with the same results on every processor. Otherwise pairs of products of bytes
                are added in 16 bits where a processor has AVX2 and not VNNI, and large ones saturate.
        """
        import onnxruntime

        super().__init__()
        self.file = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        if exact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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


class LlamaCpp:
    """A language model in llama.cpp, by the package xllamacpp, in this process."""

    def __init__(self, path: Path, threads: int = 1, context: int = 512) -> None:
        """Load a GGUF file.

        Args:
            path: the file.
            threads: for the prompt and for the tokens after it.
            context: the most tokens of prompt and answer together.

        Raises:
            ModuleNotFoundError: without xllamacpp.
            FileNotFoundError: if there is no such file.
            ValueError: for less than one thread or two tokens.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise ModuleNotFoundError("xllamacpp is not installed: pip install xllamacpp")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path}")
        if threads < 1 or context < 2:
            raise ValueError(
                f"threads must be at least 1 and context 2, got {threads} and {context}"
            )
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.verbosity = context, 1, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        self.context, self.server = context, xllamacpp.Server(settings)

    def milliseconds(self, prompt: Sequence[int], count: int) -> tuple[float, float]:
        """By its own clock: of reading the whole prompt, and of each of `count` tokens written after it.

        Raises:
            ValueError: for an empty prompt, no token to write, or more of both than the context holds.
        """
        if not len(prompt) or count < 1 or len(prompt) + count > self.context:
            raise ValueError(
                f"prompt and count must be at least 1 and together at most {self.context}, got "
                f"{len(prompt)} and {count}"
            )
        wanted = {"n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        said = self.server.handle_completions({"prompt": [int(t) for t in prompt], **wanted})
        if "timings" not in said:
            raise RuntimeError(f"llama.cpp did not answer: {str(said)[:200]}")
        return said["timings"]["prompt_ms"], said["timings"]["predicted_per_token_ms"]


def llama_cpp_available() -> bool:
    """Whether xllamacpp is installed."""
    return importlib.util.find_spec("xllamacpp") is not None
