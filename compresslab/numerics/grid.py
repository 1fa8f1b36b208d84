"""The integers that b bits can hold.

    signed:            -2^(b-1) .. 2^(b-1) - 1
    signed, narrow:    -(2^(b-1) - 1) .. 2^(b-1) - 1     symmetric about 0, one code unused
    unsigned:          0 .. 2^b - 1

A narrow grid is what weights use: -q is a code whenever q is, and int8 products cannot overflow in
pairs (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, section 3).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class IntGrid:
    """The codes low..high of a b-bit integer format, b from 1 to 8.

    Raises:
        ValueError: if bits is not 1..8, if a 1-bit grid is signed, or if an unsigned grid is narrow.
    """

    bits: int = 8
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        """Refuse grids that have no codes or no meaning."""
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise ValueError(f"bits must be an integer from 1 to 8, got {self.bits!r}")
        if self.signed and self.bits == 1:
            raise ValueError("bits must be 2 to 8 for a signed grid, got 1")
        if self.narrow and not self.signed:
            raise ValueError("narrow must be False for an unsigned grid, got True")

    @property
    def low(self) -> int:
        """The smallest code."""
        if not self.signed:
            return 0
        return -(1 << (self.bits - 1)) + int(self.narrow)

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - int(self.signed))) - 1

    @property
    def levels(self) -> int:
        """How many codes there are."""
        return self.high - self.low + 1

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype in which unpacked codes are held."""
        return torch.int8 if self.signed else torch.uint8
