"""The judge's own clock and memory: what comes back from an answer is small, what is made of it need not be.

    at_most(seconds)    TimeoutError in the block that takes longer, in any thread
    no_more_than(n)     MemoryError, or torch's own, for what takes so many bytes more than there are now

Both bound Python; a single call into C ends when it ends, and then the clock has its turn.
"""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path("/proc/self/statm")
"""Where Linux tells how large this process is."""


class _Overdue(BaseException):
    """No Exception, so that nothing inside of the block takes it for an error of its own."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes longer.

    Raises:
        TimeoutError: once the time of the block is over; the block itself cannot catch it by this name.
    """
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    try:
        with _by_signal(seconds) if main else _by_thread(seconds):
            yield
    except _Overdue:
        raise TimeoutError(f"it took longer than {seconds:g} seconds") from None


@contextlib.contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Overdue

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    """Signals reach the main thread only; an exception can be sent to any, as on a Dask worker's."""
    lock, state = threading.Lock(), {"over": False, "sent": False}
    number = ctypes.c_ulong(threading.get_ident())

    def ring() -> None:
        with lock:
            if not state["over"]:
                state["sent"] = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_Overdue))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    except _Overdue:
        state["sent"] = False
        raise
    finally:
        timer.cancel()
        with lock:
            state["over"] = True
        # Sent just as the block ended, it is awaited here, and not met somewhere else.
        if state["sent"]:
            with contextlib.suppress(_Overdue):
                time.sleep(0.1)


_lock, _inside, _before = threading.Lock(), [], []


@contextlib.contextmanager
def no_more_than(more: int) -> Iterator[None]:
    """Bound this process's memory to what it has and `more` bytes, inside the block.

    A limit that is there already and lower stays. Processes that are started inside have it, too. It is the
    process's, so of several threads at once the first one's holds until the last is done. Where the system
    does not tell how large a process is (anything but Linux), nothing is bound.
    """
    if not HERE.is_file():
        yield
        return
    import resource

    now = int(HERE.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with _lock:
        if not _inside:
            _before[:] = resource.getrlimit(resource.RLIMIT_AS)
            soft, hard = _before
            bounds = [b for b in (now + more, soft, hard) if b != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
        _inside.append(more)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                resource.setrlimit(resource.RLIMIT_AS, tuple(_before))
