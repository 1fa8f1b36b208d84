"""What an answer leaves behind in the sandbox: processes and files, and how they are removed.

This file is copied beside `worker.py`, so it imports nothing of the library.
"""

import contextlib
import os
import signal
import time


def others() -> int:
    """How many processes there are in the namespace besides its first and this one."""
    return sum(name.isdigit() for name in os.listdir("/proc")) - 2


def held() -> int:
    """Bytes that all processes here hold together, shared pages counted once."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/smaps_rollup", encoding="ascii") as file:
                    pss = next(line for line in file if line.startswith("Pss:"))
                total += 1024 * int(pss.split()[1])
    return total


def kill_all(child: int, alone: bool) -> None:
    """End the child and whatever it started; alone in a pid namespace that is everybody else."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        for target in (-1,) if alone else (-child, child):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(target, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not alone or others() <= 0:
            return
        time.sleep(0.005)


def emptied(folder: str, before: set[str]) -> bool:
    """What one answer has left, the next must not find; whether that is so.

    It is not where a path is too long to be named, or memory lies in segments that outlive a process.

    Args:
        folder: where answers may write.
        before: what was there at first and stays: Python itself may be mounted below it.
    """
    empty(folder, before)
    with contextlib.suppress(OSError), open("/proc/sysvipc/shm", encoding="ascii") as file:
        if len(file.readlines()) > 1:
            return False
    return set(os.listdir(folder)) <= before


def empty(folder: str, kept: set[str]) -> None:
    """Remove all that is in a folder, closed folders too, but for some names at its top."""
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
    waiting, folders = [folder], []
    while waiting:
        inside = waiting.pop()
        with contextlib.suppress(OSError):
            os.chmod(inside, 0o700)
            for entry in os.scandir(inside):
                if inside == folder and entry.name in kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
    for inside in reversed(folders):
        with contextlib.suppress(OSError):
            os.rmdir(inside)
