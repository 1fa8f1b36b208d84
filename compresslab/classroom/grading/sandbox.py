"""The walls around a learner's code: bubblewrap's namespaces, a staged folder, limits, and a clock.

    protection                     how
    no network                     a network namespace of its own, with nothing in it
    no files but Python's          a mount namespace: interpreter, libraries and the staged folder, read-only
    no other processes             a pid and an ipc namespace; all of it dies with the grader
    a private /tmp                 in memory, of limited size, thrown away
    no environment                 cleared
    no namespaces of its own       in one it would have a superuser's rights, over control groups for instance
    processes, memory              a control group of the kernel's, where one may be made (`cgroup`)
    CPU, memory, files, output     resource limits and counting in the worker
    for ever                       a wall clock in the worker, and another one here

Without bubblewrap only the last three hold, and a sandbox is not made unless it is said that this is enough.

Of the library, the sandbox holds what answers may call (`STAGED`), not what they are asked to write.
"""

import json
import math
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compresslab.classroom.grading import protocol
from compresslab.classroom.grading.cgroup import Group, open_group
from compresslab.classroom.grading.outside import is_stopped

PACKAGE = Path(__file__).parents[2]
STAGED = ("kernels/simd", "kernels/_jit.py")
MISSING = (
    "bubblewrap (bwrap, 0.8 or newer) is not installed or does not work here, so answers would run without "
    "a network namespace, without a read-only file system and with your rights: install it, or pass "
    "--allow-unsandboxed if you trust every submission"
)
START_SECONDS = 120.0
# In a user namespace of its own an answer could mount the control groups, and kill the grader through them.
ALONE = ("--unshare-all", "--unshare-user", "--disable-userns")
ROOM = ("--size", str(64 * 2**20), "--tmpfs", "/tmp")


class SandboxError(RuntimeError):
    """The sandbox does not start, or answers nonsense; says why."""


@dataclass(frozen=True)
class Limits:
    """What one exercise may use.

    Attributes:
        wall: seconds of all its cases together.
        cpu: seconds of processor time of one case.
        memory: bytes beyond what Python and torch take.
        file: bytes of a file.
        answer: bytes of one case's result.
        output: bytes of all results together.
        processes: in the sandbox at one time.
        lines: of Python that the answer itself may run for one case; 0: they are not counted.
    """

    wall: float = 60.0
    cpu: int = 20
    memory: int = 2 * 2**30
    file: int = 16 * 2**20
    answer: int = 8 * 2**20
    output: int = 64 * 2**20
    processes: int = 16
    lines: int = 0


@dataclass(frozen=True)
class Counted:
    """What a control group has counted: processes refused, processes killed, its limit of bytes met."""

    refused: int = 0
    killed: int = 0
    full: int = 0


@dataclass(frozen=True)
class Said:
    """One thing that came out: a case's number (-1: before any), a status, words, the value's bytes."""

    case: int
    status: str
    detail: str = ""
    payload: bytes = b""
    seconds: float = 0.0
    memory: int = 0


def bubblewrap() -> str | None:
    """The path of a bubblewrap that works here, or None."""
    return probe()[0]


def probe() -> tuple[str | None, str]:
    """The path of a bubblewrap that works here or None, and what is wrong with the one that is there."""
    path = shutil.which("bwrap")
    if path is None:
        return None, "there is no bwrap"
    test = [path, "--ro-bind", "/", "/", *ALONE, *ROOM, "--proc", "/proc", "true"]
    try:
        done = subprocess.run(test, capture_output=True, timeout=20, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{path}: {error}"
    return (path, "") if done.returncode == 0 else (None, f"{path}: {done.stderr.strip()[:300]}")


class Sandbox:
    """A worker behind walls; a context manager.

    Args:
        unsandboxed: allow it without bubblewrap.

    Raises:
        SandboxError: without bubblewrap, unless that is allowed.
    """

    def __init__(self, unsandboxed: bool = False) -> None:
        self.walls, why = probe()
        if self.walls is None and not unsandboxed:
            raise SandboxError(f"{MISSING} ({why})")
        self.unsandboxed = unsandboxed
        self.folder: tempfile.TemporaryDirectory | None = None
        self.process: subprocess.Popen | None = None
        self.busy = 0.0  # seconds of processor time that the last answer took
        self.waited = 0.0  # seconds in which it could have run, and others had the processor
        self.group: Group | None = None

    def __enter__(self) -> "Sandbox":
        """Stage the folder; the worker starts with the first task."""
        self.folder = tempfile.TemporaryDirectory(prefix="grading-")
        stage(Path(self.folder.name))
        return self

    def __exit__(self, *_: object) -> None:
        """End the worker and throw the folder away."""
        self.stop()
        if self.folder is not None:
            self.folder.cleanup()
            self.folder = None

    def start(self) -> None:
        """Start a worker and wait until it is ready.

        Raises:
            SandboxError: if it does not come up.
        """
        self.group = open_group()
        command = self.command()
        self.process = subprocess.Popen(
            command if self.group is None else self.group.entering(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        if self.read(START_SECONDS) != b"ready":
            self.stop()
            raise SandboxError("the worker in the sandbox did not start")

    def stop(self) -> None:
        """Kill the worker, and with it everything in its namespace."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                stream.close()
            self.process = None
        if self.group is not None:
            self.group.end()
            self.group = None

    def command(self) -> list[str]:
        """The worker's command line, walls included."""
        python = [sys.executable, "-P", "-s", "-B"]
        if self.walls is None:
            staged = self.folder.name
            return [*python, f"{staged}/worker.py", staged, "among others"]
        inside = "/staged"
        return [
            *(self.walls, *ALONE, "--die-with-parent", "--new-session", "--clearenv"),
            *("--cap-drop", "ALL", "--hostname", "grading"),
            # First: Python itself may lie below /tmp.
            *(*ROOM, "--chdir", "/tmp"),
            *visible(),
            # Read-only: as root, files below /proc/sys would be those of the whole machine.
            *("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
            *("--ro-bind", self.folder.name, inside, "--remount-ro", "/"),
            *(part for name, value in environment().items() for part in ("--setenv", name, value)),
            *("--", *python, f"{inside}/worker.py", inside, "alone"),
        ]

    def run(self, task: dict, inputs: Sequence[tuple], limits: Limits) -> tuple[str, list[Said]]:
        """Run one answer on its cases; a second time, with twice the time, where others had the processor.

        They had it where the answer could run in more than half of its time and did in less than half. One
        that waits by itself (for a lock, for a clock) could not run, and gets no second attempt.

        Args:
            task: id, before, answer, imports, function, harness, harness_name, compiled.
            inputs: the arguments of each case.
            limits: what it may use.

        Returns:
            Why it ended ("ended", "time", "output", "processes", "refused", "memory", "lost"), and what
            it said.
        """
        try:
            ended, said = self._run(task, inputs, limits)
            if ended == "time" and self.busy < limits.wall / 2 < self.waited:
                ended, said = self._run(task, inputs, replace(limits, wall=2 * limits.wall))
            return ended, said
        except BaseException:
            # The judge's clock or memory was met: the worker's next words would be taken for another answer.
            self.stop()
            raise

    def _run(self, task: dict, inputs: Sequence[tuple], limits: Limits) -> tuple[str, list[Said]]:
        if self.process is None:
            self._start_at_last()
        before = self._bound(limits)
        about = {**task, "cases": len(inputs), "limits": asdict(limits)}
        try:
            protocol.write_frame(self.process.stdin, json.dumps(about).encode())
            for args in inputs:
                protocol.write_frame(self.process.stdin, protocol.pack(args))
            ended = self.read(limits.wall + 30, largest=1000)
            said = self.read(30, largest=limits.output + 2**20) if ended is not None else None
            why = json.loads(ended) if said is not None else None
        except (OSError, ValueError, RecursionError):
            why, said = None, None
        known = said is not None and type(why) is dict and why.get("task") == task["id"]
        ended = str(why.get("ended")) if known else "lost"
        self.busy = float(why.get("busy", 0)) if known else 0.0
        self.waited = float(why.get("waited", 0)) if known else 0.0
        if ended in ("ended", "lost") and self.group is not None:
            now = self._counted()
            # The kernel kills one case, the process that starts them, or the worker. Where the machine had no
            # memory left, and not the answer, it is nobody's fault.
            if now.killed > before.killed and now.full > before.full:
                ended = "memory"
            elif ended == "ended" and now.refused > before.refused:
                ended = "refused"
        if not known:
            self.stop()
            return ended, []
        if why.get("spent"):  # the next answer gets a sandbox that holds nothing of this one's
            self.stop()
        return ended, _parse(said, len(inputs), limits)

    def _start_at_last(self) -> None:
        """A second attempt: on a machine that is busy at the moment, a start may take too long."""
        try:
            self.start()
        except SandboxError:
            self.start()

    def _counted(self) -> Counted:
        """What the kernel has counted so far."""
        if self.group is None:
            return Counted()
        return Counted(self.group.refused(), self.group.killed(), self.group.full())

    def _bound(self, limits: Limits) -> Counted:
        """Tell the kernel the next answer's limits; what it has counted before."""
        if self.group is None:
            return Counted()
        # A little above what the worker stops at, which says better what happened.
        bounds = limits.processes + 8, limits.memory * 3 // 2 + 3 * 2**29
        try:
            self.group.limit(*bounds)
        except OSError:  # more is held than is allowed now, and cannot be given back
            self.stop()
            self._start_at_last()
            if self.group is None:
                return Counted()
            self.group.limit(*bounds)
        return self._counted()

    def read(self, seconds: float, largest: int = protocol.LARGEST) -> bytes | None:
        """The next frame; None if it does not come in time, is larger than that, or is none.

        Nor from a worker that an answer has stopped, where nobody else counts what is used.
        """
        end, stream = time.monotonic() + seconds, self.process.stdout
        content = bytearray()
        wanted = protocol.HEADER
        while len(content) < wanted:
            left = end - time.monotonic()
            if left <= 0:
                return None
            if not select.select([stream], [], [], min(left, 0.5))[0]:
                if self.group is None and is_stopped(self.process.pid):
                    return None
                continue
            part = os.read(stream.fileno(), min(wanted - len(content), 1 << 20))
            if not part:
                return None
            content += part
            if len(content) == protocol.HEADER == wanted:
                wanted += int.from_bytes(content, "little")
                if wanted > largest + protocol.HEADER:
                    return None
        return bytes(content[protocol.HEADER :])


def stage(folder: Path) -> None:
    """Copy what the worker needs: itself, the protocol, and what answers may call of the library."""
    own = Path(__file__).parent
    beside = [own / name for name in ("worker.py", "absent.py", "leftovers.py", "protocol.py")]
    for path in (*beside, own.parent / "steps.py"):
        shutil.copyfile(path, folder / path.name)
    for name in STAGED:
        target = folder / "compresslab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (PACKAGE / name).is_dir():
            shutil.copytree(PACKAGE / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(PACKAGE / name, target)
    for package in ("compresslab", "compresslab/kernels"):
        (folder / package / "__init__.py").touch()


def environment() -> dict[str, str]:
    """All that the worker sees of the environment."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    # Each case is a fork, and of Numba's own kinds of threads only these survive one.
    layer = {"NUMBA_THREADING_LAYER": "workqueue"}
    # A fork copies the table of all pages: in large pages (2 MB, where glibc and the kernel have them) that
    # is a third of the time.
    pages = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    place = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
    return {**place, **one_thread, **layer, **pages}


def visible() -> list[str]:
    """Mount Python, the system's libraries and what says whether there are large pages; the library hidden.

    All read-only, and nothing else.
    """
    prefixes = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    prefixes |= {sys.prefix, sys.base_prefix}
    system = ["/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"]
    paths = [*system, "/sys/kernel/mm/transparent_hugepage", *sorted(prefixes)]
    mounts = [part for p in paths if os.path.exists(p) for part in ("--ro-bind", p, p)]
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        installed = os.path.join(place, "compresslab")
        if os.path.isdir(installed):
            mounts += ["--tmpfs", installed]
    return mounts


def printable(text: str, most: int = 1000) -> str:
    """Text that any file, terminal and table takes: what cannot be printed as its escape, cut to a length."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])[:most]


def _parse(content: bytes, cases: int, limits: Limits) -> list[Said]:
    """Results from the bytes that the learner's side wrote: anything may be in there."""
    found, place = [], 0
    while place < len(content) and len(found) < 4 * cases + 100:
        parts = []
        for largest in (4000, limits.answer + 2**20):
            size = int.from_bytes(content[place : place + protocol.HEADER], "little")
            place += protocol.HEADER
            if size > min(largest, len(content) - place):
                return found
            parts.append(content[place : place + size])
            place += size
        try:
            about = json.loads(parts[0])
            number, seconds, memory = about["case"], float(about["seconds"]), about["memory"]
            if type(number) is not int or not -1 <= number < cases:
                continue
            said = Said(
                number,
                printable(str(about["status"]), 20),
                printable(str(about["detail"]), 500),
                parts[1],
                min(max(seconds, 0.0), 1e6) if math.isfinite(seconds) else 0.0,
                min(max(int(memory), 0), 2**50),
            )
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            return found
        found.append(said)
    return found
