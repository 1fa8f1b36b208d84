"""Microscaling formats (微缩放格式): 4-bit floats that share a scale with their neighbours.

An element is E2M1: a sign, two bits of exponent and one of mantissa, so that the spacing doubles twice,

    0   0.5   1   1.5   2   3   4   6        and their negatives; no infinity, no NaN

and a block of neighbours along a row shares a scale. Two standards differ in the scale alone:

    format   block   scale of a block                                      bits a number
    MXFP4       32   2^(floor(log2 max|x|) - 2), eight bits (E8M0)                  4.25
    NVFP4       16   max|x| / 6 as an 8-bit float (E4M3), times one                  4.5
                     float32 for the whole tensor, max|x| / (6 * 448)

    code = nearest element to x / scale, halves to the even code, beyond 6 to 6          x' = scale * element

MXFP4 takes the exponent of the largest number, which then lies in 4 to 8: what is above 6 is cut. NVFP4
moves the largest to 6 up to the rounding of its scale. OCP Microscaling Formats (MX) v1.0, 2023, sections
5.3 and 6.3; Rouhani et al. 2023, https://arxiv.org/abs/2310.10537; NVIDIA 2025,
https://arxiv.org/abs/2509.25149, section 2.

Left out: the other MX elements (8 and 6 bits), stochastic rounding, NaN as a scale.
"""

from dataclasses import dataclass

import torch

LARGEST = 6.0
"""The largest element."""
ELEMENTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the codes 0 to 7 stand for; 8 to 15 are their negatives."""
EIGHT = torch.float8_e4m3fn
EIGHT_LARGEST = 448.0
"""The largest number of E4M3."""
POWERS = (-126, 127)
"""Exponents of MXFP4's scales that are normal float32 numbers; E8M0 has -127 as well."""


@dataclass(frozen=True)
class BlockFormat:
    """A format: its name, the numbers of a block, and whether a scale is a power of two."""

    name: str
    block: int
    powers: bool

    @property
    def bits(self) -> float:
        """Bits a number, its part of the block's scale included."""
        return 4 + 8 / self.block


MXFP4 = BlockFormat("mxfp4", 32, powers=True)
NVFP4 = BlockFormat("nvfp4", 16, powers=False)
FORMATS = {form.name: form for form in (MXFP4, NVFP4)}


@dataclass(frozen=True)
class Blocks:
    """A matrix in a microscaling format.

    Attributes:
        codes: uint8 [rows, columns], 0 to 15.
        scales: float32 [rows, columns / block]: of MXFP4 powers of two, of NVFP4 numbers of E4M3.
        tensor: the scale of the whole tensor, float32 []; 1 for MXFP4.
        form: the format.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    tensor: torch.Tensor
    form: BlockFormat

    @property
    def block_scales(self) -> torch.Tensor:
        """What the elements of each block are multiplied by, float32 [rows, columns / block]."""
        return self.scales * self.tensor

    def dequantize(self) -> torch.Tensor:
        """What the codes stand for, float32 [rows, columns]."""
        values = elements(self.codes).unflatten(-1, (-1, self.form.block))
        return (values * self.block_scales[..., None]).flatten(-2)


def elements(codes: torch.Tensor) -> torch.Tensor:
    """What codes 0 to 15 stand for, float32 of the same shape."""
    table = torch.tensor([*ELEMENTS, *(-e for e in ELEMENTS)])
    return table[codes.long()]


def nearest_codes(x: torch.Tensor) -> torch.Tensor:
    """The codes of the nearest elements, uint8; halves to the even code, beyond 6 to 6.

    Args:
        x: finite tensor of any shape; an infinity takes the last code.
    """
    size = x.abs().clamp(max=LARGEST)
    _, exponent = torch.frexp(size)
    # Between 2^e and 2^(e + 1) elements lie 2^(e - 1) apart; below 1 no nearer than 0.5.
    gap = torch.ldexp(torch.ones_like(size), (exponent - 1).clamp(min=0) - 1)
    value = torch.round(size / gap) * gap
    codes = torch.bucketize(value, torch.tensor(ELEMENTS, dtype=value.dtype))
    return (codes + 8 * torch.signbit(x)).to(torch.uint8)


@torch.no_grad()
def quantize(x: torch.Tensor, form: BlockFormat) -> Blocks:
    """A matrix rounded to a microscaling format, every number for itself.

    Args:
        x: float32 [rows, columns], columns a multiple of the format's block.
        form: MXFP4 or NVFP4.

    Raises:
        ValueError: for another shape or dtype, or numbers that are not finite.
    """
    if not isinstance(form, BlockFormat):
        raise ValueError(f"form must be MXFP4 or NVFP4, got {form!r}")
    if x.dtype != torch.float32 or x.ndim != 2 or x.shape[1] % form.block or x.numel() == 0:
        raise ValueError(
            f"x must be float32 [rows, columns], columns a multiple of {form.block}, got {x.dtype} "
            f"{list(x.shape)}"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x must be finite, got NaN or an infinity")
    largest = x.abs().unflatten(-1, (-1, form.block)).amax(-1)
    scales, tensor = _powers(largest) if form.powers else _eights(largest)
    divisor = (scales * tensor)[..., None]
    # A block of zeros, or one that is nothing beside the rest, has a scale of 0: its codes are 0 as well.
    divisor = torch.where(divisor > 0, divisor, torch.inf)
    codes = nearest_codes((x.unflatten(-1, (-1, form.block)) / divisor).flatten(-2))
    return Blocks(codes, scales, tensor, form)


def _powers(largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """2^(floor(log2 largest) - 2), the exponent of 6 taken off; of zeros the smallest."""
    _, exponent = torch.frexp(largest)
    exponent = torch.where(largest > 0, exponent - 1 - 2, POWERS[0]).clamp(*POWERS)
    return torch.ldexp(torch.ones_like(largest), exponent), torch.ones(())


def _eights(largest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest / 6 in units of the tensor's scale, rounded to E4M3."""
    top = largest.max()
    smallest = torch.finfo(torch.float32).tiny
    tensor = (top / (LARGEST * EIGHT_LARGEST)).clamp(min=smallest)
    units = (largest / LARGEST / tensor).clamp(max=EIGHT_LARGEST)
    return units.to(EIGHT).float(), tensor
