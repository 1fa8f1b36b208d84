"""Where submissions are graded: processes on this machine, or a Dask cluster.

Both are `concurrent.futures.Executor`s. A cluster's workers need this package, the submissions under the
same path, and bubblewrap; the extra `instructor` brings Dask.
"""

import contextlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

INSTALL = "pip install compresslab[instructor]"


@contextlib.contextmanager
def open_executor(workers: int, scheduler: str | None = None) -> Iterator[Executor]:
    """An executor for as long as the block lasts.

    Args:
        workers: processes, if there is no scheduler.
        scheduler: a Dask scheduler's address, such as "tcp://10.0.0.1:8786".

    Raises:
        ModuleNotFoundError: for a scheduler without Dask; says how to install it.
        OSError: if the scheduler cannot be reached.
    """
    if scheduler is None:
        # Fresh processes: a forked one would share torch's threads, which do not survive it.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"a scheduler needs Dask, which is missing: {INSTALL}") from error
    with Client(scheduler, timeout=20) as client, client.get_executor() as executor:
        yield executor
