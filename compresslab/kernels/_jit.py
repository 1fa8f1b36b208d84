"""How every kernel is compiled: one decorator, so that one choice is made in one place.

`error_model="numpy"` makes 1/0 an infinity instead of an exception, which would stop vectorisation.
`fastmath` stays off: its no-NaN assumption would change `sign(NaN)` and the rounding of ties.
`nogil` lets other threads run. `cache` keeps the machine code on disk: the first call of a fresh
installation compiles, which takes longest for what holds many loops (`plan`), later ones load. Numba's cache
cannot follow a closure over another compiled function, so kernels take what they need as arguments and call
module-level kernels.
"""

from collections.abc import Callable

from numba import njit

OPTIONS = {"error_model": "numpy", "nogil": True}


def kernel(function: Callable | None = None, **options: object) -> Callable:
    """Compile `function` with Numba, keeping the machine code on disk where there is a place for it.

    Where neither the package folder nor the home folder can be written, Numba raises
    `RuntimeError`; the kernel then works uncached and compiles anew at every start.
    """
    if function is None:
        return lambda f: kernel(f, **options)
    try:
        return njit(function, cache=True, **OPTIONS, **options)
    except RuntimeError:
        return njit(function, **OPTIONS, **options)
