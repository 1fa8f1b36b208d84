"""Runs inside the sandbox: executes a learner's answer on given inputs, and hands back what it returned.

It is started as a program, `python -P -s worker.py FOLDER ALONE`, with the folder of staged modules and
whether it is alone in a pid namespace ("alone"), where everybody else may be killed. It reads tasks from
its standard input, one frame for the text and one for the inputs, until the input ends. For every task it
forks: the child runs imports and answer, and forks again for every case, so that nothing is carried from
one case to the next. A child that takes too long, too much memory or too much room is killed with all
that it started.

Nothing in here knows what is expected. What the answer does to this process, it does to its own results.
"""

import __future__

import ast
import contextlib
import functools
import gc
import json
import linecache
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import BinaryIO

MOST_TOLD = 5
"""Statements of a cell that failed and are reported."""


def _counts_by_namespace() -> bool:
    """Whether the kernel counts a user's processes in each user namespace apart: Linux, from 5.14 on.

    Before, the limit would count whatever else this user runs. A superuser's processes it never holds.
    """
    release = os.uname()
    numbers = [int(part) for part in re.findall(r"\d+", release.release)[:2]]
    return release.sysname == "Linux" and numbers >= [5, 14] and sys.argv[2:] == ["alone"]


def _limit(limits: dict) -> None:
    """Bounds that the process cannot lift again."""
    with open("/proc/self/statm", encoding="ascii") as file:
        already = int(file.read().split()[0]) * resource.getpagesize()
    bounds = {
        resource.RLIMIT_CPU: limits["cpu"],
        resource.RLIMIT_AS: already + limits["memory"],
        resource.RLIMIT_FSIZE: limits["file"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if _counts_by_namespace():
        bounds[resource.RLIMIT_NPROC] = limits["processes"] + 8
    for what, bound in bounds.items():
        _, hard = resource.getrlimit(what)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        # Two seconds between the signal that names the reason and the one that cannot be caught.
        most = bound + 2 if what == resource.RLIMIT_CPU else bound
        resource.setrlimit(
            what, (bound, most if hard == resource.RLIM_INFINITY else min(most, hard))
        )


def _say(out: BinaryIO, case: int, status: str, detail: str = "", payload: bytes = b"") -> None:
    """One result: a frame of JSON and one of the bytes."""
    from protocol import write_frame

    used = resource.getrusage(resource.RUSAGE_SELF)
    about = {"case": case, "status": status, "detail": detail[:500]}
    about |= {"seconds": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss * 1024}
    write_frame(out, json.dumps(about).encode())
    write_frame(out, payload)


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class _Nothing:
    """In the place of IPython: takes any call, and does nothing."""

    def __getattr__(self, name: str) -> Callable:
        return lambda *arguments, **named: None


def _without_cache() -> None:
    """Numba's cache needs a file that the answer is in; here it is in none."""
    import numba

    for name in ("jit", "njit", "vectorize", "guvectorize", "stencil", "cfunc"):
        compiler = getattr(numba, name)
        setattr(numba, name, _uncached(compiler))


def _uncached(compiler: Callable) -> Callable:
    @functools.wraps(compiler)
    def compile_anew(*arguments: object, cache: bool = False, **options: object) -> object:
        return compiler(*arguments, **options)

    return compile_anew


def _execute(source: str, name: str, space: dict, out: BinaryIO | None) -> None:
    """The cell, statement by statement: one that fails, a demo call or a line that needs the notebook, costs
    nothing if the function is there in the end.

    Raises:
        Exception: the first error, if it is not.
    """  # noqa: D205
    linecache.cache["<answer>"] = (len(source), None, source.splitlines(True), "<answer>")
    tree = ast.parse(source, "<answer>")
    future = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
    flags = __future__.annotations.compiler_flag if future else 0
    first, told = None, 0
    for statement in tree.body:
        try:
            whole = ast.Module([statement], [])
            exec(compile(whole, "<answer>", "exec", flags=flags, dont_inherit=True), space)
        except (Exception, SystemExit) as error:
            first, told = first or error, told + 1
            if out is not None and told <= MOST_TOLD:
                _say(out, -1, "import", f"line {statement.lineno}, not run: {_described(error)}")
    if first is not None and not callable(space.get(name)):
        raise first


def _with_bounds(function: Callable, compiler: Callable, out: BinaryIO) -> Callable:
    """A compiled function with its indices checked, which is told; any other as it is, which is not."""
    if not hasattr(function, "py_func"):
        return function
    checked = compiler(function.py_func, boundscheck=True)
    # With compiling switched off the compiler hands back the function as it is.
    if hasattr(checked, "py_func"):
        _say(out, -1, "compiled")
    return checked


def _harness(task: dict, np: types.ModuleType, torch: types.ModuleType) -> Callable:
    """What turns the answer into a function of the cases' plain values."""
    if not task["harness"]:
        return lambda function: function
    own = {"np": np, "torch": torch, "Callable": object}
    text = "from __future__ import annotations\n" + task["harness"]
    exec(compile(text, "<harness>", "exec"), own)
    return own[task["harness_name"]]


def _prepare(task: dict, out: BinaryIO) -> tuple[Callable, Callable] | None:
    """Run imports and answer; the function as the cases call it, and as the learner wrote it.

    None after saying what went wrong.
    """
    import numpy as np
    import torch

    module = types.ModuleType("__main__")
    sys.modules["__main__"], space = module, module.__dict__
    space["get_ipython"] = lambda: _Nothing()
    _without_cache()
    # Before the answer runs, which may put something else in the place of what makes it.
    harness = _harness(task, np, torch)
    compiler = sys.modules["numba"].njit
    try:
        for line in task["imports"]:
            try:
                exec(line, space)
            except Exception as error:
                _say(out, -1, "import", f"{line}: {_described(error)}")
        for other in task["before"]:
            with contextlib.suppress(Exception, SystemExit):
                _execute(other, "", space, None)
        _execute(task["answer"], task["function"], space, out)
        function = space.get(task["function"])
        if function is None:
            _say(out, -1, "missing", f"the cell defines no {task['function']}")
            return None
        if task["compiled"]:
            function = _with_bounds(function, compiler, out)
        return harness(function), function
    except BaseException as error:
        _say(out, -1, "stopped", _described(error))
        return None


def _run_case(
    function: Callable, answer: Callable, case: int, args: tuple, out: BinaryIO, limits: dict
) -> None:
    """One call, and what came of it.

    Args:
        function: as the cases call it.
        answer: the learner's own function, whose lines are counted where `limits["lines"]` is not 0.
        case: its number.
        args: of the call.
        out: where to say it.
        limits: of the task.
    """
    from protocol import ProtocolError, pack
    from steps import Lines

    # Seconds count from here: the limit is one case's.
    soft = int(time.process_time()) + limits["cpu"]
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))
    before = pack(args)
    lines = Lines(answer, limits["lines"])
    try:
        with lines if limits["lines"] else contextlib.nullcontext():
            value = function(*args)
    except NotImplementedError:
        _say(out, case, "not done")
        return
    except BaseException as error:
        _say(out, case, "error", _described(error))
        return
    if limits["lines"] and lines.too_many:
        _say(out, case, "lines", f"more than {limits['lines']} lines of Python")
        return
    try:
        content = pack(value)
        status = "value" if pack(args) == before else "changed"
    except ProtocolError as error:
        _say(out, case, "error", f"ProtocolError: {error}")
        return
    if len(content) > limits["answer"]:
        _say(out, case, "too large", f"{len(content)} bytes")
        return
    _say(out, case, status, "", content)


def _task(task: dict, inputs: list[bytes], out: BinaryIO, limits: dict) -> None:
    """In a child: everything that runs the learner's code."""
    from protocol import unpack

    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    _limit(limits)
    prepared = _prepare(task, out)
    if prepared is None:
        return
    _say(out, -1, "ready")
    cases = [unpack(content) for content in inputs]
    for number, args in enumerate(cases):
        child = os.fork()
        if child == 0:
            try:
                _run_case(*prepared, number, args, out, limits)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            _say(out, number, "died", name)
            if name in ("SIGXCPU", "SIGKILL"):
                return  # The other cases would take as long.
        elif status:
            _say(out, number, "died", f"exit status {os.waitstatus_to_exitcode(status)}")


def _supervise(
    child: int, pipe: int, limits: dict, relay: Callable[[bytes], None], alone: bool, queued: dict
) -> str:
    """Pass on what the child says, until it ends, says too much, takes too long or becomes too many.

    `queued` keeps how long each process has waited for a processor: a process that has ended cannot be asked.
    """
    from leftovers import holds_more, others, waited

    end, said, checked = time.monotonic() + limits["wall"], 0, time.monotonic()
    while True:
        left = end - time.monotonic()
        if left <= 0:
            queued.update(waited(child, alone))
            return "time"
        ready, _, _ = select.select([pipe], [], [], min(left, 0.02))
        # Counted here: the kernel's limit does not hold for root, and for others counts all that they run.
        if alone and others() > limits["processes"]:
            return "processes"
        if time.monotonic() > checked + 0.2:
            checked = time.monotonic()
            queued.update(waited(child, alone))
            if alone and holds_more(1.5 * limits["memory"] + 2**30):
                return "memory"
        if ready:
            part = os.read(pipe, 1 << 16)
            if not part:
                return "ended"
            said += len(part)
            if said > limits["output"]:
                return "output"
            relay(part)
        elif os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            # The child is gone; somebody that it started may still hold the pipe open.
            ready, _, _ = select.select([pipe], [], [], 0)
            if not ready:
                return "ended"


def _processor_seconds() -> float:
    """What all processes that have ended here took of a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _standing() -> tuple:
    """What the kernel grants this process: limits, priority, processors.

    An answer runs with the same user's rights, and may take any of it away (`prlimit`, `setpriority`). It
    cannot be given back, and every later answer would inherit what is left.
    """
    limits = sorted(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
    found: list[object] = [resource.getrlimit(number) for number in limits]
    found += [os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PGRP, 0)]
    found += [os.sched_getscheduler(0), os.sched_getaffinity(0)]
    for name in ("oom_score_adj", "autogroup", "timerslack_ns", "coredump_filter"):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", encoding="ascii") as file:
            found.append(file.read())
    return tuple(found)


def main() -> None:
    """Serve tasks until the input ends."""
    folder, alone = sys.argv[1], sys.argv[2] == "alone"
    sys.path.insert(0, folder)
    from absent import Finder

    sys.meta_path.insert(0, Finder(folder))
    # Here, once: what a fork imports, the next one imports again.
    import numba  # noqa: F401
    import numpy  # noqa: F401
    import torch
    from leftovers import emptied, kill_all
    from protocol import read_frame, write_frame

    torch.set_num_threads(1)
    # The first optimizer of a process imports for two seconds; every fork would do so again.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    if alone:  # what that has put there is not for answers to find
        for name in os.listdir("/tmp"):
            if name.startswith("torchinductor"):
                shutil.rmtree(os.path.join("/tmp", name), ignore_errors=True)
    source, sink = os.fdopen(0, "rb", closefd=False), os.fdopen(os.dup(1), "wb")
    os.set_inheritable(sink.fileno(), False)
    at_first = set(os.listdir("/tmp")) if alone else set()
    # A collection in a fork would touch, and so copy, every object that is here now: 0.2 s each.
    gc.collect()
    gc.freeze()
    granted = _standing()
    write_frame(sink, b"ready")
    while (content := read_frame(source)) is not None:
        task = json.loads(content)
        inputs = [read_frame(source) for _ in range(task["cases"])]
        before = _processor_seconds()
        pipe, end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                os.close(pipe)
                sink.close()
                with os.fdopen(end, "wb") as out:
                    _task(task, inputs, out, task["limits"])
            finally:
                os._exit(0)
        os.close(end)
        said, queued = [], {}
        why = _supervise(child, pipe, task["limits"], said.append, alone, queued)
        kill_all(child, alone)
        spent = (alone and not emptied("/tmp", at_first)) or _standing() != granted
        os.close(pipe)
        busy = _processor_seconds() - before
        about = {"task": task["id"], "ended": why, "spent": spent, "busy": busy}
        about["waited"] = sum(queued.values()) / 1e9
        write_frame(sink, json.dumps(about).encode())
        write_frame(sink, b"".join(said))


if __name__ == "__main__":
    main()
