"""What a call really takes in joules, where the machine counts them and lets them be read.

    joules of a call = (counter after - counter before) / calls        over about a second of calls

Intel's and AMD's processors count the energy of each socket (RAPL, running average power limit); Linux shows
the counters as files of microjoules in /sys/class/powercap, which many systems let only root read. They count
everything that the socket does meanwhile: a call on one core of an idle machine pays for its idling as well.

Left out: memory's own counters, other systems, and batteries.
"""

import time
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def counters(folder: Path = POWERCAP) -> list[Path]:
    """The folders of the sockets whose counter can be read.

    Left out: parts of a socket, and a laptop's whole platform (psys), which holds the socket.
    """
    found = []
    for socket in sorted(folder.glob("intel-rapl:*")):
        part = socket.name.count(":") > 1 or _name(socket).startswith("psys")
        if not part and _microjoules(socket) is not None:
            found.append(socket)
    return found


def joules(
    call: Callable[[], object], seconds: float = 1.0, folder: Path = POWERCAP
) -> float | None:
    """Joules of one call, all sockets together; None where no counter can be read.

    Args:
        call: what is done, again and again.
        seconds: for about how long; the counters move about every millisecond.
        folder: where the counters are.

    Raises:
        ValueError: for a time that is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    sockets = counters(folder)
    if not sockets:
        return None
    call()
    before, started, calls = [_microjoules(s) for s in sockets], time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < seconds:
        call()
        calls += 1
    spent = 0
    for socket, first in zip(sockets, before, strict=True):
        last = _microjoules(socket)
        # A counter starts again at 0 behind its largest number.
        spent += last - first if last >= first else last - first + _largest(socket)
    return 1e-6 * spent / calls


def _name(socket: Path) -> str:
    try:
        return (socket / "name").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _microjoules(socket: Path) -> int | None:
    try:
        return int((socket / "energy_uj").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _largest(socket: Path) -> int:
    return int((socket / "max_energy_range_uj").read_text(encoding="ascii"))
