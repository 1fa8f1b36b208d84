"""A Dask cluster on this machine's loopback: a scheduler and its workers, each a process that may be killed.

It is what `docs/cluster.md` describes for several machines, on one: workers without a nanny, so that nothing
starts one again that has died.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def cluster(workers: int, scratch: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler on loopback and its workers, one task at a time each; its address, and the workers.

    Nothing starts a worker again: one that is killed stays away. All are ended with the block.

    Args:
        workers: how many.
        scratch: a folder for what they write.
    """
    file = scratch / "cluster.json"
    common = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    worker = ["worker", *common, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    worker += ["--local-directory", str(scratch / "dask"), "--death-timeout", "30"]
    with contextlib.ExitStack() as stack:
        _dask(["scheduler", *common, "--port", "0"], stack)
        until = time.monotonic() + 60
        while not (file.is_file() and file.stat().st_size):
            if time.monotonic() > until:
                raise TimeoutError("the scheduler of the cluster did not start within 60 seconds")
            time.sleep(0.1)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        yield address, [_dask(worker, stack) for _ in range(workers)]


def _dask(arguments: list[str], stack: contextlib.ExitStack) -> subprocess.Popen:
    """One process of the cluster, in a group of its own, which ends with the block."""
    command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen) -> None:
    """Kill it, and what it has started in its group; nothing, if it has ended and was waited for."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
