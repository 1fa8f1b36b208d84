"""Hostile and broken answers: points for what was honestly right, and the next answer is graded as ever."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading import sandbox as sandbox_module
from compresslab.classroom.grading.cgroup import open_group
from compresslab.classroom.grading.grade import grade_exercise
from compresslab.classroom.grading.magic import without_magic
from compresslab.classroom.grading.sandbox import MISSING, Limits, Sandbox, SandboxError, bubblewrap
from compresslab.classroom.grading.submission import Submission

pytestmark = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
ROOT = Path(__file__).parents[3]
LIMITS = Limits(wall=12, cpu=2, memory=2**29, answer=2**20, processes=30)
RIGHT = """
def code_lengths(counts):
    bits = np.zeros(len(counts), dtype=int)
    heap = [(int(n), [s]) for s, n in enumerate(counts) if n]
    if len(heap) == 1:
        bits[heap[0][1]] = 1
    while len(heap) > 1:
        heap.sort()
        (few, one), (more, other) = heap.pop(0), heap.pop(0)
        bits[one + other] += 1
        heap.append((few + more, one + other))
    return bits
"""
IMPORTS = ("import numpy as np", "import torch", "from compresslab.numerics import entropy")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def graded(sandbox):
    def run(answer, id="combine.code_lengths", limits=LIMITS, seed=5):
        found = Submission("somebody", {id: textwrap.dedent(answer)}, IMPORTS)
        return grade_exercise(exercise(id), found, seed, sandbox, limits)

    yield run
    # Whatever was run: the next answer is graded as if nothing had been.
    assert run(RIGHT).status == "passed"


COUNTS = (np.array([3, 1, 1]),)


def task_of(answer):
    """What the sandbox is given of an answer."""
    names = ("before", "imports", "function", "harness", "harness_name", "compiled")
    parts = ([], (*IMPORTS, "import time"), "code_lengths", "", "", False)
    return {"id": "combine.code_lengths", "answer": answer, **dict(zip(names, parts, strict=True))}


def body(code):
    """A function of the right name that does this."""
    return "def code_lengths(counts):\n" + textwrap.indent(textwrap.dedent(code), "    ")


@pytest.mark.honest("right")
def test_a_right_answer_gets_full_marks(graded):
    mark = graded(RIGHT)
    assert (mark.points, mark.out_of, mark.message) == (3, 3, "")
    assert mark.seconds < 5
    assert mark.memory > 2**20


HOSTILE = {
    "an endless loop": ("while True: pass", "too much processor time"),
    "sleep for ever": ("import time\ntime.sleep(1e9)", "longer than 12 seconds"),
    "a loop that cannot be interrupted": (
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except Exception: pass\nwhile True: pass",
        "processor time|SIGKILL|longer than",
    ),
    # Beside much else the processor time may run out first, at processes that cannot be had.
    "a fork bomb": (
        "import os\nwhile True: os.fork()",
        "processes|Resource temporarily unavailable",
    ),
    "a fork bomb that goes on": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "processes",
    ),
    "a namespace in which it is the superuser": (
        "import ctypes\nif ctypes.CDLL(None, use_errno=True).unshare(0x10000000):\n"
        "    raise PermissionError(ctypes.get_errno())\nreturn counts",
        "PermissionError",
    ),
    "threads without end": (
        "import threading, time\n"
        "while True: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()",
        "thread|processor time|longer than|memory|processes",
    ),
    "a flood of memory": ("return [bytearray(10**8) for _ in range(10**4)]", "MemoryError"),
    "one huge array": ("return np.zeros(10**12)", "allocate|MemoryError"),
    "a huge result": ("return np.zeros(10**7)", "too large"),
    "a flood of output": ("while True: print('x' * 10**6)", "processor time|longer than"),
    "sys.exit": ("import sys\nsys.exit(0)", "SystemExit"),
    "os._exit": ("import os\nos._exit(0)", "nothing"),
    "os._exit with a status": ("import os\nos._exit(7)", "exit status 7"),
    "a segmentation fault": ("import ctypes\nctypes.string_at(0)", "crashed Python"),
    "abort": ("import os\nos.abort()", "SIGABRT"),
    "recursion": ("return code_lengths(counts)", "RecursionError"),
    "killing the worker": (
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(2, signal.SIGKILL)\nreturn counts",
        "",
    ),
    "an exception that lies": (
        "class E(Exception):\n    def __str__(self): return 1/0\nraise E()",
        "",
    ),
    "a kind of exception": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "a generator": ("yield counts", ""),
    "None": ("return None", ""),
}


@pytest.mark.parametrize("code,told", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.attack("limits")
def test_it_earns_nothing_and_the_report_says_what_happened(graded, code, told):
    import re

    mark = graded(body(code))
    if "ran longer than" in mark.message and not re.search(told, mark.message):
        mark = graded(body(code))  # a busy machine's clock came before the limit that is meant
    assert mark.points == 0
    assert mark.status in ("failed", "error")
    assert re.search(told, mark.message), mark.message


@pytest.mark.attack("limits")
def test_a_flood_of_files_ends_with_the_room(graded, tmp_path):
    mark = graded(
        body(
            """
            for i in range(100):
                with open(f"/tmp/{i}", "wb") as f:
                    f.write(bytes(15 * 2**20))
            """
        )
    )
    assert mark.points == 0
    assert "space" in mark.message or "too large" in mark.message


LIES = {
    "patched comparisons": """
        import builtins
        np.isclose = np.allclose = np.array_equal = lambda *a, **k: True
        builtins.isinstance = lambda *a: True
        def code_lengths(counts): return np.zeros(len(counts), int)
        """,
    "patched torch": """
        torch.equal = torch.allclose = lambda *a, **k: True
        torch.Tensor.__eq__ = lambda *a: True
        def code_lengths(counts): return np.zeros(len(counts), int)
        """,
    "an array that equals everything": """
        class Liar(np.ndarray):
            def __eq__(self, other): return np.ones(self.shape, bool)
            def __array_function__(self, *a, **k): return True
        def code_lengths(counts): return np.zeros(len(counts), int).view(Liar)
        """,
    "an object that equals everything": """
        class Liar:
            def __eq__(self, other): return True
            def __array__(self, *a, **k): return np.zeros(4)
            def __torch_function__(self, *a, **k): return True
        def code_lengths(counts): return Liar()
        """,
    "a harness that is talked into it": """
        def code_lengths(counts):
            real = np.array
            np.array = lambda *a, **k: real([sum(counts), 1.0, 0.0])
            return np.zeros(len(counts), int)
        """,
    "a number of 5000 digits": "def code_lengths(counts): return [10**5000]",
    "another kind of number": """
        def code_lengths(counts): return torch.zeros(len(counts), dtype=torch.bfloat16)
        """,
    "an error of megabytes": "def code_lengths(counts): raise ValueError('x' * 10**7)",
    "a flood of lists": "def code_lengths(counts): return [[0] * 9000] * 9000",
    "the worker's own channel": """
        import glob, os
        def code_lengths(counts):
            for fd in glob.glob(f'/proc/{os.getppid()}/fd/*') + glob.glob('/proc/2/fd/*'):
                try: os.write(os.open(fd, os.O_WRONLY | os.O_NONBLOCK), b'[' * 3000)
                except OSError: pass
            return np.zeros(len(counts), int)
        """,
    "a pickle": """
        class Evil:
            def __reduce__(self): return (print, ('pwned',))
        def code_lengths(counts): return Evil()
        """,
    "frames": """
        import sys
        def code_lengths(counts):
            frame = sys._getframe()
            while frame:
                for value in frame.f_locals.values():
                    if isinstance(value, dict) and 'expected' in value: return value['expected']
                frame = frame.f_back
            return np.zeros(len(counts), int)
        """,
    "garbage": """
        import gc
        def code_lengths(counts):
            for o in gc.get_objects():
                if getattr(o, '__name__', '') in ('code_lengths', 'reference') and o is not code_lengths:
                    return o(counts)
            return np.zeros(len(counts), int)
        """,
    "the library": """
        def code_lengths(counts): return entropy.code_lengths(counts)
        """,
    "the library by another way": """
        import importlib, sys
        def code_lengths(counts):
            sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_Finder']
            sys.modules.pop('compresslab', None)
            for place in ('ROOT', '/staged', '.', '..'): sys.path.insert(0, place)
            return importlib.import_module('compresslab.numerics.entropy').code_lengths(counts)
        """,
    "a result written to every channel": """
        import json, os
        def code_lengths(counts):
            line = {'case': 0, 'status': 'value', 'detail': '', 'seconds': 0, 'memory': 0}
            line = json.dumps(line).encode()
            for fd in range(64):
                try: os.write(fd, len(line).to_bytes(8, 'little') + line + (0).to_bytes(8, 'little'))
                except OSError: pass
            return np.zeros(len(counts), int)
        """,
    "noise on every channel": """
        import os
        def code_lengths(counts):
            for fd in range(64):
                try: os.write(fd, os.urandom(100))
                except OSError: pass
            return np.zeros(len(counts), int)
        """,
    "no code": "def code_lengths(:",
    "a null byte": "def code_lengths(counts): return '\\x00'",
    "deep nesting": "x = " + "(" * 5000 + ")" * 5000,
    "another name": "def lengths(counts): return counts",
    "no function": "code_lengths = 5",
    "exit while the cell runs": "import os\nos._exit(0)",
    "a loop while the cell runs": "while True: pass",
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES.keys())
@pytest.mark.attack("judge")
def test_lies_earn_nothing(graded, answer):
    assert graded(answer.replace("ROOT", str(ROOT))).points == 0


@pytest.mark.attack("walls")
def test_what_lies_outside_is_not_there(graded, tmp_path):
    (tmp_path / "other.ipynb").write_text("another learner's answer")
    outside = [
        ROOT / "solutions",
        ROOT / "compresslab",
        ROOT / "tests",
        tmp_path,
        Path.home() / ".ssh",
    ]
    outside = [str(p) for p in (*outside, "/etc/passwd", "/var", "/sys/class", "/sys/fs")]
    look = f"""
        import os
        there = [p for p in {outside} if os.path.exists(p)]
        # Of the kernel's settings that of large pages alone can be read, and not changed.
        pages = "/sys/kernel/mm/transparent_hugepage"
        if os.path.exists(pages):
            there += [p for p in os.listdir("/sys") if p != "kernel"]
            there += [p for p in os.listdir("/sys/kernel") if p != "mm"]
            there += [p for p in os.listdir("/sys/kernel/mm") if p != "transparent_hugepage"]
            try:
                open(pages + "/enabled", "w").close()
                there.append("it can be changed")
            except OSError:
                pass
        raise RuntimeError(repr((there, sorted(os.environ), os.getcwd(), os.getpid() < 1000)))
        """
    message = graded(body(textwrap.dedent(look))).message
    assert "([], [" in message
    assert "'/tmp', True)" in message
    for name in ("COMPRESSLAB", "USER", "PYTEST"):
        assert name not in message


@pytest.mark.attack("walls")
def test_nothing_outside_is_written(graded, tmp_path):
    target = tmp_path / "gradebook.db"
    target.write_text("marks")
    real = (target, ROOT / "pyproject.toml")
    before = {p: p.stat().st_mtime_ns for p in real}
    places = [str(p) for p in (*real, "/usr/x", "/etc/x", "/x", "/staged/worker.py")]
    write = f"""
        import sys
        wrote = []
        for place in [*{places}, sys.prefix + "/x", np.__file__]:
            try:
                open(place, "a").close()
                wrote.append(place)
            except OSError:
                pass
        # What lies below /tmp is the sandbox's own; the real files are looked at below.
        raise RuntimeError(repr([w for w in wrote if not w.startswith("/tmp/")]))
        """
    assert "RuntimeError: []" in graded(body(textwrap.dedent(write))).message
    assert {p: p.stat().st_mtime_ns for p in real} == before


@pytest.mark.attack("walls")
def test_settings_of_the_machine_cannot_be_written(graded):
    # Asked, never tried: as root some of these files would be those of the whole machine.
    places = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
    ]
    places += ["/dev", "/dev/shm", "/staged", "/"]
    ask = f"""
        import os
        raise RuntimeError(repr([p for p in {places} if os.access(p, os.W_OK)]))
        """
    assert "RuntimeError: []" in graded(body(textwrap.dedent(ask))).message


@pytest.mark.attack("limits")
def test_what_many_processes_hold_together_is_limited(graded):
    many = """
        import os, time
        for _ in range(11):
            if os.fork() == 0:
                kept = bytearray(os.urandom(1)) * (200 * 2**20)
                time.sleep(30)
        time.sleep(30)
        """
    limits = Limits(wall=12, cpu=4, memory=2**29, processes=30)
    mark = graded(body(textwrap.dedent(many)), limits=limits)
    assert mark.points == 0
    assert "took too much memory" in mark.message


LEFTOVERS = {
    "a closed folder": "import os\nos.mkdir('/tmp/a')\nopen('/tmp/a/b', 'w')\nos.chmod('/tmp/a', 0)",
    "no folder at all": "import os\nopen('/tmp/b', 'w')\nos.chmod('/tmp', 0)",
    "folders without end": (
        "import os\nfor _ in range(3000):\n    os.mkdir('deeper')\n    os.chdir('deeper')"
    ),
    "shared memory": ("import ctypes\nctypes.CDLL(None).shmget(0, 2**20, 0o1600)"),
}


@pytest.mark.parametrize("code", LEFTOVERS.values(), ids=LEFTOVERS.keys())
@pytest.mark.attack("walls")
def test_what_one_answer_leaves_the_next_does_not_find(graded, code):
    look = """
        import os
        segments = open('/proc/sysvipc/shm').read().count(chr(10)) - 1
        raise RuntimeError(repr((sorted(os.listdir('/tmp')), segments)))
        """
    before = graded(body(textwrap.dedent(look))).message
    assert "], 0)" in before
    assert graded(body(code)).points == 0
    assert graded(body(textwrap.dedent(look))).message == before


@pytest.fixture
def counted():
    group = open_group()
    if group is None:
        pytest.skip("no control group may be made here")
    group.end()


SEGMENTS = """
import ctypes
library = ctypes.CDLL(None)
library.shmat.restype = ctypes.c_void_p
library.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
for _ in range(300):
    number = library.shmget(0, 20 * 2**20, 0o1600)
    place = library.shmat(number, None, 0)
    ctypes.memset(place, 1, 20 * 2**20)
    library.shmdt(ctypes.c_void_p(place))
"""


@pytest.mark.parametrize("where", ["in a case", "beside the function"])
@pytest.mark.attack("limits")
def test_memory_that_belongs_to_no_process_is_counted(graded, counted, where):
    end = 'raise RuntimeError("all of it")'
    answer = body(SEGMENTS + end) if where == "in a case" else SEGMENTS + body(end)
    limits = Limits(wall=60, cpu=40, memory=2**29, processes=30)
    mark = graded(answer, limits=limits)
    assert mark.points == 0
    assert "all of it" not in mark.message
    assert "memory" in mark.message or "brought the sandbox down" in mark.message


MEMORY_ELSEWHERE = {
    "segments": SEGMENTS,
    "files without a name": (
        "import os\nkept = []\nfor _ in range(60):\n"
        "    kept.append(os.memfd_create('x'))\n"
        "    for _ in range(4): os.write(kept[-1], bytes(4 * 2**20 - 1))\n"
        "    if len(kept) > 55 and os.fork() == 0: kept.clear()\n"
    ),
    "files without a byte": (
        "import os\nfor i in range(3_000_000): os.close(os.open(f'/tmp/{i}', os.O_CREAT))\n"
    ),
}


@pytest.mark.parametrize("code", MEMORY_ELSEWHERE.values(), ids=MEMORY_ELSEWHERE)
@pytest.mark.attack("limits")
def test_where_no_control_group_is_to_be_had_the_worker_counts(monkeypatch, code):
    monkeypatch.setattr(sandbox_module, "open_group", lambda: None)
    # All together may hold one and a half times this, and a gigabyte.
    limits = Limits(wall=60, cpu=40, memory=2**26, processes=30)
    imports = "import numpy as np\nimport time\n"
    answer = imports + body(code + 'time.sleep(2)\nraise RuntimeError("all of it")')
    with Sandbox() as sandbox:
        found = Submission("somebody", {"combine.code_lengths": answer}, IMPORTS)
        mark = grade_exercise(exercise("combine.code_lengths"), found, 5, sandbox, limits)
        assert mark.points == 0
        assert "all of it" not in mark.message
        assert "took too much memory" in mark.message
        again = Submission("somebody", {"combine.code_lengths": RIGHT}, IMPORTS)
        mark = grade_exercise(exercise("combine.code_lengths"), again, 5, sandbox, LIMITS)
        assert mark.status == "passed"


@pytest.mark.attack("limits")
def test_it_is_said_whichever_of_its_processes_the_kernel_kills(graded, counted):
    # The kernel kills the largest: here the process that starts the cases, not the case that goes on.
    large = "import numpy as np\nlarge = [np.ones(2**25)]\n"
    end = 'raise RuntimeError("all of it")'
    limits = Limits(wall=60, cpu=40, memory=2**29, processes=30)
    mark = graded(large + body("large.clear()\n" + SEGMENTS + end), limits=limits)
    assert "took too much memory" in mark.message


@pytest.mark.attack("limits")
def test_threads_are_counted_too(graded, counted):
    many = """
        import threading, time
        threading.stack_size(32768)
        for _ in range(3000):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        raise RuntimeError("all of them")
        """
    mark = graded(body(textwrap.dedent(many)))
    assert mark.points == 0
    assert "all of them" not in mark.message
    assert "processes and threads, which were refused" in mark.message


@pytest.mark.attack("limits")
def test_a_stopped_worker_does_not_lift_the_limits(graded, counted):
    stop = """
        import os, signal, time
        os.kill(2, signal.SIGSTOP)
        started = 0
        try:
            for _ in range(200):
                if os.fork() == 0:
                    time.sleep(3)
                    os._exit(0)
                started += 1
        finally:
            os.kill(2, signal.SIGCONT)
        """
    mark = graded(body(textwrap.dedent(stop)))
    assert mark.points == 0
    assert "processes" in mark.message


@pytest.mark.attack("limits")
def test_a_stopped_worker_is_seen_from_outside_where_nobody_else_counts(graded, monkeypatch):
    monkeypatch.setattr(sandbox_module, "open_group", lambda *_: None)
    stop = """
        import os, signal, time
        os.kill(2, signal.SIGSTOP)
        time.sleep(8)
        os.kill(2, signal.SIGCONT)
        raise RuntimeError("nobody has seen it")
        """
    with Sandbox() as alone:
        alone.start()
        assert alone.group is None
        start = time.monotonic()
        ended, said = alone.run(task_of(body(textwrap.dedent(stop))), [COUNTS], LIMITS)
        assert time.monotonic() - start < 5
    assert (ended, said) == ("lost", [])


SLOW = """
def code_lengths(counts):
    end = time.process_time() + 0.6
    while time.process_time() < end:
        pass
    return right(counts)
"""
BURN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


@pytest.mark.honest("right")
def test_an_answer_whose_time_others_took_gets_a_second_one(monkeypatch):
    """Nine processes share one processor for the whole of the first attempt, and not of the second.

    Each in a session of its own: the kernel gives every control group and every session the same.
    """
    monkeypatch.setattr(sandbox_module, "open_group", lambda *_: None)
    core = min(os.sched_getaffinity(0))
    answer = RIGHT.replace("code_lengths", "right") + SLOW
    with Sandbox() as alone:
        alone.start()
        first = psutil.Process(alone.process.pid)
        for process in (first, *first.children(recursive=True)):
            process.cpu_affinity([core])
        burn = [sys.executable, "-c", BURN.format(3.5)]
        others = [subprocess.Popen(burn, start_new_session=True) for _ in range(8)]
        for other in others:
            psutil.Process(other.pid).cpu_affinity([core])
        start = time.monotonic()
        ended, said = alone.run(task_of(answer), [COUNTS], replace(LIMITS, wall=2))
        took = time.monotonic() - start
        for other in others:
            other.wait()
    assert took > 2
    assert ended == "ended"
    assert any(s.status == "value" for s in said)


@pytest.mark.attack("limits")
def test_an_answer_that_waits_by_itself_gets_no_second_attempt():
    answer = RIGHT.replace("code_lengths", "right") + SLOW.replace("end = ", "time.sleep(30) #")
    with Sandbox() as alone:
        alone.start()
        start = time.monotonic()
        ended, _ = alone.run(task_of(answer), [COUNTS], replace(LIMITS, wall=2))
        assert ended == "time"
        assert time.monotonic() - start < 3.9
        assert alone.waited < 1


TAKEN_AWAY = {
    "memory": "resource.prlimit(w, resource.RLIMIT_AS, (held + 2**22, held + 2**22))",
    "later files": "resource.prlimit(w, resource.RLIMIT_FSIZE, (10, 10))",
    "processor time": "resource.prlimit(w, resource.RLIMIT_CPU, (used + 1, used + 1))",
    "open files": "resource.prlimit(w, resource.RLIMIT_NOFILE, (12, 12))",
    "priority": "os.setpriority(os.PRIO_PROCESS, w, 19)",
    "its class": "os.sched_setscheduler(w, os.SCHED_IDLE, os.sched_param(0))",
    "a processor": "os.sched_setaffinity(w, {min(os.sched_getaffinity(0))})",
}
NEEDS_MUCH = """
import os

def code_lengths(counts):
    large, end = np.ones(20_000_000), time.process_time() + 1.2
    while time.process_time() < end:
        large[::4096] += 1
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    return right(counts)
"""


@pytest.mark.attack("limits")
@pytest.mark.parametrize("taken", TAKEN_AWAY.values(), ids=TAKEN_AWAY.keys())
def test_what_an_answer_takes_from_the_worker_the_next_one_has(sandbox, taken):
    """The worker has the same user's rights, and every answer is a child of it."""
    attack = f"""
    import os, resource
    w = int(next(l for l in open("/proc/self/status") if l.startswith("PPid")).split()[1])
    w = int(next(l for l in open(f"/proc/{{w}}/status") if l.startswith("PPid")).split()[1])
    about = open(f"/proc/{{w}}/stat").read().rpartition(")")[2].split()
    held = int(open(f"/proc/{{w}}/statm").read().split()[0]) * 4096
    used = (int(about[11]) + int(about[12])) // 100
    {taken}
    return right(counts)
    """
    answer = RIGHT.replace("code_lengths", "right") + body(textwrap.dedent(attack))
    ended, said = sandbox.run(task_of(answer), [COUNTS], LIMITS)
    assert ended == "ended"
    assert [s.status for s in said if s.case == 0] == ["value"]  # it did what it meant to do
    assert sandbox.process is None  # given up
    honest = RIGHT.replace("code_lengths", "right") + NEEDS_MUCH
    limits = replace(LIMITS, memory=2**30, cpu=6)
    for _ in range(2):
        ended, said = sandbox.run(task_of(honest), [COUNTS], limits)
        assert ended == "ended"
        assert [s.status for s in said if s.case == 0] == ["value"]


BUSY_FORKS = """
def code_lengths(counts):
    for _ in range(25):
        if os.fork() == 0:
            while True:
                pass
    while True:
        pass
"""


@pytest.mark.attack("limits")
@pytest.mark.parametrize("grouped", [True, False], ids=["in a control group", "without one"])
def test_busy_forks_take_nothing_from_a_neighbour(request, monkeypatch, grouped):
    if grouped:
        request.getfixturevalue("counted")
    else:
        monkeypatch.setattr(sandbox_module, "open_group", lambda *_: None)
    answer = RIGHT.replace("code_lengths", "right") + SLOW
    with Sandbox() as greedy, Sandbox() as honest:
        for sandbox in (greedy, honest):  # both on one core, as many on few are
            sandbox.start()
            first = psutil.Process(sandbox.process.pid)
            for process in (first, *first.children(recursive=True)):
                process.cpu_affinity([min(os.sched_getaffinity(0))])
        attack = "import os\n" + BUSY_FORKS
        limits = replace(LIMITS, wall=6, cpu=60)
        beside = threading.Thread(target=greedy.run, args=(task_of(attack), [COUNTS], limits))
        beside.start()
        time.sleep(0.5)
        ended, said = honest.run(task_of(answer), [COUNTS], replace(LIMITS, wall=3))
        beside.join()
    assert ended == "ended"
    assert any(s.status == "value" for s in said)


@pytest.mark.parametrize("text", ["\\ud800", "\\x1b[31mred\\x00", "=cmd()\\n\\r\\t"])
@pytest.mark.attack("pages")
def test_messages_can_be_printed_and_stored(graded, text):
    mark = graded(body(f"raise ValueError('{text}')"))
    assert mark.message.isprintable()
    mark.message.encode("utf-8")


@pytest.mark.attack("walls")
def test_loopback_is_another_one(graded):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        met = []
        listener = threading.Thread(target=lambda: met.append(_accept(server)))
        listener.start()
        mark = graded(
            body(
                f"""
                import socket
                socket.create_connection(('127.0.0.1', {port}), timeout=2)
                return counts
                """
            )
        )
        listener.join()
    assert met == [None]
    assert mark.points == 0
    assert "refused" in mark.message


def _accept(server):
    try:
        return server.accept()
    except TimeoutError:
        return None


@pytest.mark.attack("walls")
def test_state_is_not_carried_from_one_case_to_the_next(graded):
    mark = graded(
        """
        seen = []
        def code_lengths(counts):
            import torch
            seen.append(1)
            raise RuntimeError(f"seen {len(seen)}")
        """
    )
    assert "seen 1" in mark.message


def test_inputs_that_are_changed_are_told(graded):
    mark = graded(
        "def centroid_gradient(gradient, codes, colours):\n    gradient *= 0\n    return gradient",
        "combine.centroid_gradient",
    )
    assert mark.points == 0
    assert "changed its input" in mark.message


@pytest.mark.attack("limits")
def test_what_outlives_the_answer_is_ended(graded):
    left = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1e6)
            os._exit(0)
        """
    mark = graded(textwrap.dedent(left) + RIGHT)
    assert mark.status == "passed"


@pytest.mark.attack("walls")
def test_files_of_one_answer_are_gone_for_the_next(graded):
    graded(body("open('/tmp/left', 'w').write('answers'); import os; os.makedirs('/tmp/a/b')"))
    mark = graded(
        body(
            "import os, sys\n"
            "python = (sys.prefix, sys.base_prefix)\n"
            "left = [p for p in os.listdir('/tmp') if not any(f.startswith('/tmp/' + p) for f in python)]\n"
            "raise RuntimeError(repr(left))"
        )
    )
    assert "RuntimeError: []" in mark.message


def test_a_known_mistake_is_named(graded):
    same = """
        used = max(2, (counts > 0).sum())
        return np.where(counts > 0, int(np.ceil(np.log2(used))), 0)
        """
    mark = graded(body(textwrap.dedent(same)))
    assert mark.mistake == "the same length for all"
    assert mark.status in ("failed", "partly")


def test_half_of_the_cases_is_part_of_the_points(graded):
    # Right wherever there are more than two kinds of symbols; without a bit for a lone one.
    mark = graded(RIGHT.replace("bits[heap[0][1]] = 1", "pass"))
    assert mark.status == "partly"
    assert 0 < mark.points < mark.out_of
    assert mark.mistake == "a lone symbol without a bit"
    assert "of 8 cases" in mark.message  # six, and two with other numbers


def test_the_same_seed_gives_the_same_mark(graded):
    answer = body("return np.full(len(counts), len(counts))")
    one, two = graded(answer, seed=9), graded(answer, seed=9)
    assert (one.points, one.message) == (two.points, two.message)


def test_an_answer_that_was_never_begun_is_not_done(graded):
    assert graded(body("raise NotImplementedError('not done yet')")).status == "not done"


@pytest.mark.honest("right")
def test_unusual_but_right_answers_get_full_marks(graded):
    unusual = """
        from collections import Counter
        class Tree:
            def __init__(self, n, s): self.n, self.s = n, s
        def code_lengths(counts):
            trees, bits = [Tree(int(n), [i]) for i, n in enumerate(counts) if n], Counter()
            if len(trees) == 1: bits[trees[0].s[0]] = 1
            while len(trees) > 1:
                trees = sorted(trees, key=lambda t: -t.n)
                a, b = trees.pop(), trees.pop()
                bits.update(a.s + b.s)
                trees.append(Tree(a.n + b.n, a.s + b.s))
            return np.array([bits[i] for i in range(len(counts))])
        """
    assert graded(unusual).status == "passed"


HONEST = {
    "a demo call that fails below": RIGHT
    + "\ncheck(code_lengths, 'combine.code_lengths')\nprint(undefined)\n",
    "magic around it": "%matplotlib inline\n!echo hello\n" + RIGHT,
    "a dataclass": """
        from __future__ import annotations
        from dataclasses import dataclass
        @dataclass
        class Group:
            n: int
            symbols: list[Undefined]
        """,
    "a helper compiled with a cache": """
        from numba import njit
        @njit(cache=True)
        def helper(x): return x + 1
        assert helper(1) == 2
        """,
    "a main guard": """
        ready = False
        if __name__ == "__main__":
            ready = True
        assert ready
        """,
    "a scripted helper": """
        import torch
        @torch.jit.script
        def helper(x: torch.Tensor) -> torch.Tensor:
            return x + 1
        """,
}


@pytest.mark.parametrize("before", HONEST.values(), ids=HONEST.keys())
@pytest.mark.honest("right")
def test_honest_answers_in_odd_company_get_full_marks(graded, before):
    answer = textwrap.dedent(before)
    plain, _ = without_magic(answer if "def code_lengths" in answer else answer + RIGHT)
    assert graded(plain).status == "passed"


def test_without_walls_nothing_is_graded_unless_that_is_said(monkeypatch):
    missing = "compresslab.classroom.grading.sandbox.probe"
    monkeypatch.setattr(missing, lambda: (None, "there is no bwrap"))
    with pytest.raises(SandboxError, match=r"bubblewrap .* is not installed.*there is no bwrap"):
        Sandbox()
    with Sandbox(unsandboxed=True) as open_air:
        found = Submission("x", {"combine.code_lengths": RIGHT}, IMPORTS)
        mark = grade_exercise(exercise("combine.code_lengths"), found, 1, open_air, LIMITS)
        assert mark.status == "passed"
        stolen = Submission(
            "x", {"combine.code_lengths": textwrap.dedent(LIES["the library"])}, IMPORTS
        )
        mark = grade_exercise(exercise("combine.code_lengths"), stolen, 1, open_air, LIMITS)
        assert mark.points == 0
