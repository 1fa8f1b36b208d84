"""What an inference costs in picojoules, estimated from published energies of single operations.

energy = MACs * (multiply + add) + weight bytes * DRAM read
"""

from collections.abc import Sequence

from compresslab.measure.counts import LayerCount

PICOJOULES = {
    "int8 multiply": 0.2,
    "int32 add": 0.1,
    "fp16 multiply": 1.1,
    "fp16 add": 0.4,
    "fp32 multiply": 3.7,
    "fp32 add": 0.9,
    "DRAM byte": 160.0,
}
"""Energy of one operation in a 45 nm process at 0.9 V: M. Horowitz, ISSCC 2014, figure 1.1.9; the DRAM
read (640 pJ for 32 bits) as quoted by Han et al. 2015, https://arxiv.org/abs/1506.02626, table 1."""


def mac_picojoules(weight_bits: int, activation_bits: int) -> float:
    """Energy of one multiply-accumulate, in pJ.

    Integer multipliers below 8 bits are extrapolated by area, as the product of the two widths; mixed
    integer and float operands are computed in the float format, bfloat16 at float16's price.
    """
    widest = max(weight_bits, activation_bits)
    if widest > 16:
        return PICOJOULES["fp32 multiply"] + PICOJOULES["fp32 add"]
    if widest > 8:
        return PICOJOULES["fp16 multiply"] + PICOJOULES["fp16 add"]
    product = weight_bits * activation_bits / 64
    return PICOJOULES["int8 multiply"] * product + PICOJOULES["int32 add"]


def energy_microjoules(layers: Sequence[LayerCount], weight_bytes: int) -> float:
    """Estimated energy of one inference at batch 1, each weight read once from DRAM, in microjoules."""
    compute = sum(c.macs * mac_picojoules(c.weight_bits, c.activation_bits) for c in layers)
    return 1e-6 * (compute + weight_bytes * PICOJOULES["DRAM byte"])
