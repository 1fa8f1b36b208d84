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


def holds_more(allowed: float) -> bool:
    """Whether all processes here together hold more bytes, shared pages counted once.

    With segments of shared memory, with files that live in memory alone and have no name, and with what the
    kernel keeps of every file in /tmp. Pages of theirs that a process has mapped besides are counted twice:
    what is held is never more than is counted. Counting shared pages once takes the kernel milliseconds for
    each process; where it is not too much with them counted for everybody, that is not asked for.
    """
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    files: dict[tuple[int, int], int] = {}
    for name in processes:
        files.update(_without_name(name))
    beside = _segments() + _inodes() + sum(files.values())
    return all(
        beside + sum(map(count, processes)) > allowed for count in (_resident, _proportional)
    )


def _resident(process: str) -> int:
    """Bytes that a process holds, shared pages among them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * int(_text(f"/proc/{process}/statm").split()[1])
    return 0


def _proportional(process: str) -> int:
    """Bytes that a process holds, its part of shared pages among them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return 1024 * int(_text(f"/proc/{process}/smaps_rollup").split("Pss:")[1].split()[0])
    return 0


def waited(child: int, alone: bool) -> dict[str, int]:
    """Nanoseconds in which each process of the answer could run, and another had the processor."""
    found = {}
    for name in os.listdir("/proc") if alone else [str(child), *_children(child)]:
        if name.isdigit() and int(name) not in (1, os.getpid()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[name] = int(_text(f"/proc/{name}/schedstat").split()[1])
    return found


def _children(process: int) -> list[str]:
    with contextlib.suppress(OSError):
        return _text(f"/proc/{process}/task/{process}/children").split()
    return []


def _text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _segments() -> int:
    """Bytes of System V's shared memory in this namespace."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/sysvipc/shm", encoding="ascii") as file:
            heading, *rows = (line.split() for line in file)
        return sum(int(row[heading.index("rss")]) for row in rows)
    return 0


def _inodes() -> int:
    """About what the kernel takes for the files in /tmp, empty ones included."""
    about = os.statvfs("/tmp")
    return 1024 * (about.f_files - about.f_ffree)


def _without_name(process: str) -> dict[tuple[int, int], int]:
    """Bytes of a process's open files that are in memory alone (memfd_create), by device and number."""
    found, folder = {}, f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for number in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{number}").startswith("/memfd:"):
                    about = os.stat(f"{folder}/{number}")
                    found[about.st_dev, about.st_ino] = 512 * about.st_blocks
    return found


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
