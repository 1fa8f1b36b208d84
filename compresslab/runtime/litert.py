"""LiteRT (TensorFlow Lite's successor), the engine of phones and of many microcontrollers.

    width       weights   activations   made by
    "float32"   float32   float32       litert-torch
    "float16"   float16   float32       cast by ai-edge-quantizer; half the file
    "int8"      int8      int8          calibrated by ai-edge-quantizer; a quarter of the file

The rounding is theirs, not ours: scales come from their calibration on the given images, so codes may
differ from those of `runtime.convert`. Files are made for one image at a time, as their engines want it.

Needs the extra `litert` (litert-torch with its converter, which brings jax along; half a gigabyte). It
installs beside our torch in an environment of its own, but not with the versions that `constraints.txt`
pins for authors (its converter wants an older typing-extensions). Left out: dynamic ranges, batches,
delegates.
"""

import contextlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compresslab.runtime.export import quietly
from compresslab.writing import write_whole

INSTALL = "pip install compresslab[litert]"
WIDTHS = ("float32", "float16", "int8")


def available() -> bool:
    """Whether the packages are installed."""
    names = ("litert_torch", "ai_edge_quantizer", "ai_edge_litert")
    return all(importlib.util.find_spec(name) is not None for name in names)


def export_litert(
    model: nn.Module,
    shape: tuple[int, ...],
    path: Path,
    width: str = "float32",
    images: torch.Tensor | None = None,
) -> int:
    """Write a LiteRT file for one image at a time; returns the bytes on disk.

    Args:
        model: a float network.
        shape: of one image.
        path: ends in .tflite; is written whole or not at all.
        width: "float32", "float16" or "int8".
        images: for the calibration of "int8", as the network takes them.

    Raises:
        ValueError: for another width, or "int8" without images.
        ModuleNotFoundError: if the extra is not installed; says how to install it.
    """
    if width not in WIDTHS:
        raise ValueError(f"width must be one of {', '.join(WIDTHS)}, got {width!r}")
    if width == "int8" and (images is None or len(images) == 0):
        raise ValueError("images must hold at least one example to calibrate int8, got none")
    if not available():
        raise ModuleNotFoundError(f"LiteRT's converter is not installed: {INSTALL}")
    path = Path(path)
    nowhere = io.StringIO()
    with quietly(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        write_whole(path, lambda temporary: _write(model, shape, temporary, width, images))
    return path.stat().st_size


def _write(
    model: nn.Module, shape: tuple[int, ...], path: Path, width: str, images: torch.Tensor | None
) -> None:
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    litert_torch.convert(model.eval(), (torch.zeros(1, *shape),)).export(str(path))
    if width == "float16":
        rounding = quantizer.Quantizer(str(path))
        rounding.update_quantization_recipe(**_half_precision())
        rounding.quantize().export_model(str(path), overwrite=True)
    if width == "int8":
        rounding = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        name, argument = _signature(path)
        seen = rounding.calibrate({name: [{argument: x[None].numpy()} for x in images]})
        rounding.quantize(seen).export_model(str(path), overwrite=True)


def _half_precision() -> dict[str, object]:
    from ai_edge_quantizer import qtyping

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    everything = qtyping.TFLOperationName.ALL_SUPPORTED
    return {
        "regex": ".*",
        "operation_name": everything,
        "op_config": config,
        "algorithm_key": "float_casting",
    }


def _signature(path: Path) -> tuple[str, str]:
    from ai_edge_litert.interpreter import Interpreter

    name, about = next(iter(Interpreter(str(path)).get_signature_list().items()))
    return name, about["inputs"][0]


class LiteRtModel(nn.Module):
    """A LiteRT file as a network; images go through it one after another."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Args: the file, and the threads of one image."""
        from ai_edge_litert.interpreter import Interpreter

        super().__init__()
        self.interpreter = Interpreter(str(path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float images [n, c, h, w] -> float logits [n, classes]."""
        return torch.from_numpy(np.concatenate([self._one(image[None]) for image in x.numpy()]))

    def _one(self, image: np.ndarray) -> np.ndarray:
        if self.input["dtype"] == np.int8:
            scale, zero = self.input["quantization"]
            image = np.clip(np.rint(image / scale) + zero, -128, 127).astype(np.int8)
        self.interpreter.set_tensor(self.input["index"], image)
        self.interpreter.invoke()
        found = self.interpreter.get_tensor(self.output["index"])
        if self.output["dtype"] == np.int8:
            scale, zero = self.output["quantization"]
            found = (found.astype(np.float32) - zero) * np.float32(scale)
        return found
