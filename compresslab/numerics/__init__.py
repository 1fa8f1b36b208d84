"""What the codes mean: number formats, integer grids, scales and zero points, and the error they cost.

Pure functions and frozen dataclasses on torch tensors; the loops are in `kernels`.
"""
