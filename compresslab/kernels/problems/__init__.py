"""A random problem for every public kernel, computed by the kernel and by slow NumPy (`reference`).

    for name, problem in PROBLEMS.items():
        found, expected = problem(np.random.default_rng(0))

Sizes are drawn from those at which loops change (a rest of a tile, one row, more than one panel) and kept
small. The tests run every problem with many seeds; `compresslab doctor` runs each once, which also says on a
machine of an unknown kind which kernel is wrong there. What packs arguments for a kernel is tried with it.
"""

from compresslab.kernels.problems import integers, numbers, signs, weights
from compresslab.kernels.problems.problem import PROBLEMS, agrees

__all__ = ["PROBLEMS", "agrees", "integers", "numbers", "signs", "weights"]
