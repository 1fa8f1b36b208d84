"""Two cores without a second OpenMP: parts of a kernel's rows on Python threads.

Kernels release the interpreter lock, so plain threads run them side by side. Numba's own parallel loops
would bring a thread pool that fights torch's (measured 4x slower when the two alternate). A part must be
worth the 30 microseconds that handing it over costs; the caller decides by its amount of work.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="compresslab")


if hasattr(os, "register_at_fork"):
    # A forked process has the pool, but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def split_rows(run: Callable[[int, int], None], rows: int, threads: int, least: int = 1) -> None:
    """Call run(first, last) on `threads` nearly equal parts of range(rows), each of at least `least`."""
    parts = max(1, min(threads, rows // max(least, 1)))
    if parts == 1:
        run(0, rows)
        return
    cuts = [rows * part // parts for part in range(parts + 1)]
    waiting = [_pool(threads - 1).submit(run, a, b) for a, b in pairwise(cuts[1:])]
    run(cuts[0], cuts[1])
    for part in waiting:
        part.result()
