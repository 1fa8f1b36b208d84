"""What rounding costs.

    MSE   = mean((x - x')^2)
    SQNR  = 10 log10( mean(x^2) / MSE )   in dB, signal to quantization-noise ratio (信噪比)

If x is spread evenly over each step, the error is uniform on [-s/2, s/2] and MSE = s^2 / 12. One more bit
halves s, quarters the MSE and adds 20 log10(2) = 6.02 dB (Bennett 1948; Widrow and Kollár,
*Quantization Noise*, 2008, chapter 1).
"""

import math

import torch


def mse(x: torch.Tensor, approximation: torch.Tensor) -> float:
    """Mean squared error of two tensors of one shape.

    Raises:
        ValueError: if the shapes differ or the tensors are empty.
    """
    _same_shape(x, approximation)
    return float((x.double() - approximation.double()).square().mean())


def sqnr_db(x: torch.Tensor, approximation: torch.Tensor) -> float:
    """Signal to quantization-noise ratio in dB; infinite where nothing is lost.

    Raises:
        ValueError: if the shapes differ, the tensors are empty, or x is all zero.
    """
    noise = mse(x, approximation)
    signal = float(x.double().square().mean())
    if signal == 0:
        raise ValueError("x must not be all zero: its SQNR is undefined")
    return math.inf if noise == 0 else 10 * math.log10(signal / noise)


def uniform_noise(scale: float) -> float:
    """The MSE s^2 / 12 of values spread evenly over each step of size s."""
    return scale * scale / 12


def _same_shape(x: torch.Tensor, approximation: torch.Tensor) -> None:
    if x.shape != approximation.shape:
        raise ValueError(
            f"approximation must have x's shape {tuple(x.shape)}, got {tuple(approximation.shape)}"
        )
    if x.numel() == 0:
        raise ValueError(f"x must not be empty, got shape {tuple(x.shape)}")
