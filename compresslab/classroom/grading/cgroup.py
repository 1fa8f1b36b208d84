"""A control group (cgroup) of Linux around one sandbox: the kernel itself counts its processes and its bytes.

    version   processes and threads        bytes, files in memory and kernel's own included
    1         pids/NAME/pids.max           memory/NAME/memory.limit_in_bytes
    2         NAME/pids.max                NAME/memory.max

Where the group can have the controller of processor time as well, all its processes together get the share
of one: many busy ones take nothing from whoever is graded beside them.

Counting in the worker is late on a busy machine (a fork bomb starts thousands of processes before the worker
is run again), sees no threads and no memory that belongs to no process, and can be stopped by a signal.

A group is made below the sandbox's own one or, if processes there forbid it (version 2), below the nearest
group above that hands the two controllers on. An ordinary user may do that only where a group was delegated
to him; where no group can be made there is none, and the limits of the worker remain. Left out: a limit of
processor time, which the worker has for each case.
"""

import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
OWN = Path("/proc/self/cgroup")
CONTROLLERS = ("pids", "memory")
BYTES = {1: "memory.limit_in_bytes", 2: "memory.max"}
_numbers = itertools.count()


class Group:
    """One or two folders of the cgroup file system, which hold the same processes.

    Args:
        folders: the folder of each controller; with version 2 it is one folder for both.
        version: 1 or 2.
    """

    def __init__(self, folders: dict[str, Path], version: int) -> None:
        self.folders = folders
        self.version = version

    @property
    def entries(self) -> list[Path]:
        """The files into which a process that is to be counted writes its number."""
        return [folder / "cgroup.procs" for folder in dict.fromkeys(self.folders.values())]

    def entering(self, command: list[str]) -> list[str]:
        """A command line that enters the group and then becomes `command`."""
        enter = (
            'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ >"$1" || exit 1; shift; n=$((n-1)); done'
        )
        files = [str(path) for path in self.entries]
        return ["/bin/sh", "-c", f'{enter}; exec "$@"', "sh", str(len(files)), *files, *command]

    def limit(self, processes: int, memory: int) -> None:
        """At most so many processes and threads, and bytes, more than there are now."""
        self._write("pids", "pids.max", int(self._read("pids", "pids.current")) + processes)
        self._write("memory", BYTES[self.version], memory)

    def refused(self) -> int:
        """How often a process or thread was refused so far."""
        return sum(int(line.split()[1]) for line in self._read("pids", "pids.events").splitlines())

    def full(self) -> int:
        """How often the group's own limit of bytes stopped something so far."""
        if self.version == 1:
            return int(self._read("memory", "memory.failcnt"))
        return _count(self._read("memory", "memory.events"), "max")

    def killed(self) -> int:
        """How many of its processes the kernel has killed for want of memory so far, whoever used it up."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return _count(self._read("memory", name), "oom_kill")

    def end(self) -> None:
        """Kill what is still in the group, and remove it."""
        end = time.monotonic() + 5
        for folder in dict.fromkeys(self.folders.values()):
            while folder.is_dir() and time.monotonic() < end:
                for number in (folder / "cgroup.procs").read_text(encoding="ascii").split():
                    with contextlib.suppress(OSError):
                        os.kill(int(number), signal.SIGKILL)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.01)

    def _read(self, controller: str, name: str) -> str:
        return (self.folders[controller] / name).read_text(encoding="ascii")

    def _write(self, controller: str, name: str, value: int) -> None:
        (self.folders[controller] / name).write_text(str(value), encoding="ascii")


def _count(events: str, name: str) -> int:
    """A line's number in a file of "name number" lines; 0 where an older kernel has no such line."""
    return sum(int(line.split()[1]) for line in events.splitlines() if line.split()[0] == name)


def open_group(mounts: Path = MOUNTS, own: Path = OWN) -> Group | None:
    """A new group for one sandbox; None where this process may not make one that counts both.

    Args:
        mounts: the table of mounts, as /proc/self/mountinfo has it.
        own: this process's groups, as /proc/self/cgroup has them.
    """
    name = f"grading-{os.getpid()}-{next(_numbers)}"
    made: dict[str, Path] = {}
    version = 0
    try:
        for controller in CONTROLLERS:
            parent, version = _parent(controller, _mounted(mounts), _member(own))
            made[controller] = parent / name
            _sweep(parent)
            made[controller].mkdir(exist_ok=version == 2)
        group = Group(made, version)
        group.limit(1000, 2**40)
        if version == 1:
            _share_time(made, name, _mounted(mounts), _member(own))
        if not all(os.access(path, os.W_OK) for path in group.entries):
            raise PermissionError(f"{group.entries}")
    except (OSError, ValueError, LookupError):
        for folder in made.values():
            with contextlib.suppress(OSError):
                folder.rmdir()
        return None
    return group


def _sweep(parent: Path) -> None:
    """Remove the groups of graders that were killed."""
    for folder in parent.glob("grading-*-*"):
        number = folder.name.split("-")[1]
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _share_time(
    made: dict[str, Path], name: str, mounted: dict[str, tuple[Path, str]], member: dict[str, str]
) -> None:
    """Add the folder of the controller of processor time, if there may be one."""
    with contextlib.suppress(OSError, LookupError):
        if "cpu" in mounted:
            parent, _ = _parent("cpu", mounted, member)
            _sweep(parent)
            (parent / name).mkdir()
            made["cpu"] = parent / name


def _mounted(table: Path) -> dict[str, tuple[Path, str]]:
    """Where each controller is mounted, "" for version 2, and which group lies there."""
    found = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        place, (kind, _, options) = before.split()[3:5], after.split()[:3]
        if kind == "cgroup2":
            found[""] = Path(place[1]), place[0]
        elif kind == "cgroup":
            found |= {name: (Path(place[1]), place[0]) for name in options.split(",")}
    return found


def _member(own: Path) -> dict[str, str]:
    """The group of this process, for each controller; "" is version 2."""
    found = {}
    for line in own.read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        found |= dict.fromkeys(names.split(","), path)
    return found


def _parent(
    controller: str, mounted: dict[str, tuple[Path, str]], member: dict[str, str]
) -> tuple[Path, int]:
    """The folder below which a group with this controller can be made, and the version."""
    version = 1 if controller in mounted else 2
    place, top = mounted[controller if version == 1 else ""]
    path = member[controller if version == 1 else ""]
    # A container sees the mount's top as a group of another name.
    below = path.removeprefix(top.rstrip("/")).strip("/") if path.startswith(top) else ""
    folder = place / below
    if version == 1:
        return folder, 1
    while folder != place.parent:
        handed = folder / "cgroup.subtree_control"
        if set(CONTROLLERS) <= set(handed.read_text(encoding="ascii").split()):
            return folder, 2
        folder = folder.parent
    raise LookupError(f"no group above {path} hands {' and '.join(CONTROLLERS)} on")
