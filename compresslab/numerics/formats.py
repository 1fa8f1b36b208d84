"""Floating-point formats: what range, what spacing, what rounding.

A number is (-1)^sign * 1.m * 2^e, with p bits of m (the mantissa 尾数) and w bits of exponent. So between
2^e and 2^(e+1) there are 2^p numbers, all 2^(e-p) apart: the spacing doubles at every power of two and
the *relative* error of rounding stays below 2^-(p+1). Below the smallest normal number the spacing stops
shrinking (subnormals) until 0.

    format   w   p   largest     relative spacing
    fp32     8  23   3.4e38      1.2e-7
    bf16     8   7   3.4e38      7.8e-3     fp32's range: the upper half of its bits
    fp16     5  10   65504       9.8e-4

IEEE 754-2019 section 3.4; bf16 as in Kalamkar et al. 2019, https://arxiv.org/abs/1905.12322. Left out:
the 8-bit floats, whose special values follow other rules.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format with `exponent` and `mantissa` bits (and one sign bit)."""

    name: str
    exponent: int
    mantissa: int
    dtype: torch.dtype

    @property
    def bits(self) -> int:
        """Bits a number takes."""
        return 1 + self.exponent + self.mantissa

    @property
    def smallest_exponent(self) -> int:
        """The exponent e of the smallest normal number 2^e."""
        return 2 - (1 << (self.exponent - 1))

    @property
    def largest_exponent(self) -> int:
        """The exponent e of the largest numbers."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2.0 - 2.0**-self.mantissa) * 2.0**self.largest_exponent

    @property
    def smallest_normal(self) -> float:
        """The smallest number with a full mantissa."""
        return 2.0**self.smallest_exponent


FP32 = FloatFormat("fp32", 8, 23, torch.float32)
BF16 = FloatFormat("bf16", 8, 7, torch.bfloat16)
FP16 = FloatFormat("fp16", 5, 10, torch.float16)
FORMATS = {f.name: f for f in (FP32, BF16, FP16)}


def spacing(x: torch.Tensor, form: FloatFormat) -> torch.Tensor:
    """The gap between neighbours of the format around |x|, 2^(max(e, e_min) - p); float64.

    Args:
        x: finite tensor of any shape.
        form: the format.
    """
    _, exponent = torch.frexp(x.double().abs())
    # frexp gives 0 the exponent 0.
    exponent = torch.where(x == 0, form.smallest_exponent, exponent - 1)
    exponent = exponent.clamp(min=form.smallest_exponent)
    return torch.ldexp(torch.ones(x.shape, dtype=torch.float64), exponent - form.mantissa)


def cast(x: torch.Tensor, form: FloatFormat) -> torch.Tensor:
    """Round float32 to the nearest number of the format, halves to even; float32 again.

    Beyond half a spacing above `largest` it overflows to infinity; NaN stays NaN.
    """
    gap = spacing(torch.nan_to_num(x, posinf=0.0, neginf=0.0), form)
    rounded = torch.round(x.double() / gap) * gap
    overflow = torch.full_like(rounded, torch.inf).copysign(rounded)
    return torch.where(rounded.abs() > form.largest, overflow, rounded).float()


def to_bf16_bits(bits: torch.Tensor) -> torch.Tensor:
    """The 16 bits of bf16 from the 32 bits of fp32, rounded to nearest, halves to even.

    Adding 0x7FFF plus the lowest kept bit carries into the upper half exactly when the lower half is
    above one half, or is one half and the kept part is odd. NaN is outside this rule.

    Args:
        bits: int64 tensor with fp32 bit patterns in 0..2^32 - 1, none of a NaN.

    Returns:
        int64 tensor with bit patterns in 0..2^16 - 1.
    """
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
