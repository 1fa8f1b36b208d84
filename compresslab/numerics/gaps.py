"""Where the nonzeros are, as distances: a run of zeros costs a few bits, however long it is.

    gap = zeros between one nonzero and the next      0 .. 2^b - 2      the weight follows
          2^b - 1                                     so many zeros, and no weight yet

This is the relative index of Han et al. 2016 (https://arxiv.org/abs/1510.00149, section 2 and figure 2).
Theirs bridges a long run by a weight that is 0; here the largest symbol does it, so no weight is made up.
With a share d of nonzeros gaps are spread geometrically, and coded by Huffman they come within a few per
cent of the entropy of the mask itself, H(d) / d bits a nonzero: what a bit for every weight cannot do
below d = 1/2.

Zeros behind the last nonzero are not stored; the shape says how many there are.
"""

import numpy as np

from compresslab.kernels import _checks


def gaps(keep: np.ndarray, bits: int) -> np.ndarray:
    """The gaps of a mask.

    Args:
        keep: bool of any shape, read in C order; True where a weight is.
        bits: b, 1 to 8.

    Returns:
        uint8 [nonzeros + bridges], each from 0 to 2^b - 1.

    Raises:
        ValueError: if keep is not bool, or for other bits.
    """
    keep = _checks.array_of("keep", keep, np.bool_)
    bridge = 2 ** _checks.integer_in("bits", bits, 1, 8) - 1
    distances = np.diff(np.flatnonzero(keep), prepend=-1) - 1
    bridges = distances // bridge
    out = np.full(int(bridges.sum()) + distances.size, bridge, np.uint8)
    out[np.cumsum(bridges + 1) - 1] = distances % bridge
    return out


def positions(symbols: np.ndarray, bits: int) -> np.ndarray:
    """Where the weights are, int64 ascending: the inverse of `gaps`.

    Raises:
        ValueError: for a symbol that b bits do not hold, a bridge at the end, or arguments of the wrong kind.
    """
    symbols = _checks.array_of("symbols", symbols, np.uint8).reshape(-1)
    bridge = 2 ** _checks.integer_in("bits", bits, 1, 8) - 1
    if symbols.max(initial=0) > bridge:
        raise ValueError(f"symbols must be at most {bridge} for {bits} bits, got {symbols.max()}")
    weight = symbols < bridge
    if weight.size and not weight[-1]:
        raise ValueError("symbols must end with a weight's gap, got a bridge that leads nowhere")
    ends = np.cumsum(symbols.astype(np.int64) + weight)
    return ends[weight] - 1
