"""The judge's clock and memory: in the main thread and in any other, and nothing of it is left behind."""

import os
import threading
import time

import numpy as np
import pytest

from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading import bounds, folder
from compresslab.classroom.grading.folder import Job
from compresslab.classroom.grading.grade import grade_exercise, grade_safely
from compresslab.classroom.grading.sandbox import MISSING, Limits, Sandbox, bubblewrap
from compresslab.classroom.grading.submission import Submission

linux = pytest.mark.skipif(not bounds.HERE.is_file(), reason="only Linux tells a process's size")


def endless():
    with bounds.at_most(0.2):
        while True:
            pass


def in_thread(function):
    """What it raised in a thread that is not the main one; None for nothing."""
    found = []

    def run():
        try:
            function()
        except BaseException as error:
            found.append(error)
        time.sleep(0.3)  # what comes too late would come here

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    return found[0] if found else None


def test_judging_has_a_clock():
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 seconds"):
        endless()


def test_it_has_one_in_another_thread_as_well():
    error = in_thread(endless)
    assert isinstance(error, TimeoutError)
    assert "longer than 0.2 seconds" in str(error)


@pytest.mark.parametrize("seconds", [0.0, 0.19, 0.2, 0.21])
def test_a_clock_that_is_over_is_not_heard_of_afterwards(seconds):
    def just_in_time():
        with bounds.at_most(0.2):
            time.sleep(seconds)

    for _ in range(3):
        assert isinstance(in_thread(just_in_time), TimeoutError | None)
        try:
            just_in_time()
        except TimeoutError:
            assert seconds >= 0.19
        time.sleep(0.05)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_nothing_in_the_block_takes_it_for_an_error_of_its_own(elsewhere):
    def stubborn():
        with bounds.at_most(0.2):
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    continue

    if elsewhere:
        assert isinstance(in_thread(stubborn), TimeoutError)
    else:
        with pytest.raises(TimeoutError):
            stubborn()


@linux
def test_of_several_threads_the_last_takes_the_limit_away():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    ready, go = threading.Barrier(3), threading.Event()

    def inside():
        with bounds.no_more_than(2**30):
            ready.wait(10)
            go.wait(10)

    threads = [threading.Thread(target=inside) for _ in range(2)]
    for thread in threads:
        thread.start()
    ready.wait(10)
    assert resource.getrlimit(resource.RLIMIT_AS) != before
    go.set()
    for thread in threads:
        thread.join(10)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_an_error_of_the_block_is_its_own():
    def wrong():
        with bounds.at_most(5):
            raise TimeoutError("a timeout of its own")

    assert str(in_thread(wrong)) == "a timeout of its own"
    with pytest.raises(TimeoutError, match="of its own"):
        wrong()


@linux
def test_memory_is_bound_inside_the_block_and_not_after_it():
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounds.no_more_than(2**28):
        np.ones(2**27)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with bounds.no_more_than(2**30):
        assert np.ones(2**20).sum() == 2**20


SLOW = "import time\ndef code_lengths(counts):\n    time.sleep(1e6)\n"
RIGHT = "def code_lengths(counts):\n    return counts\n"


@pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
def test_after_the_judges_clock_the_next_answer_gets_a_worker_of_its_own():
    task = exercise("combine.code_lengths")
    with Sandbox() as sandbox:
        first = grade_safely(task, Submission("ada", {task.id: RIGHT}), 5, sandbox, Limits(cpu=5))
        before = sandbox.process.pid
        with pytest.raises(TimeoutError), bounds.at_most(2):
            grade_exercise(task, Submission("eve", {task.id: SLOW}), 5, sandbox, Limits(wall=20))
        assert sandbox.process is None
        again = grade_safely(task, Submission("ada", {task.id: RIGHT}), 5, sandbox, Limits(cpu=5))
        assert sandbox.process.pid != before
    plain = ("points", "status", "message")
    assert [getattr(again, k) for k in plain] == [getattr(first, k) for k in plain]


LETTERS = "def code_lengths(counts):\n    return ['a' * 190_000] + ['a'] * 2000\n"


@linux
@pytest.mark.attack("limits")
@pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
def test_a_small_result_that_would_be_large_fills_no_memory():
    import resource

    with Sandbox() as sandbox:
        found = Submission("ada", {"combine.code_lengths": LETTERS}, ("import numpy as np",))
        mark = grade_safely(exercise("combine.code_lengths"), found, 5, sandbox, Limits(cpu=5))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert mark.points == 0
    assert most < 8 * 2**30


@pytest.mark.attack("files")
def test_a_notebook_that_takes_too_long_to_read_is_one_without_answers(tmp_path, monkeypatch):
    def slow(*_):
        time.sleep(20)

    monkeypatch.setattr(folder.submission, "_read_cell", slow)
    monkeypatch.setattr(folder.submission, "READING_SECONDS", 0.2)
    path = tmp_path / "12_capstone.ipynb"
    path.write_text('{"cells": [{}]}', encoding="utf-8")
    start = time.monotonic()
    job = Job("ada", os.fspath(path), "12_capstone", 1, True, Limits())
    marks = folder.grade(job)["marks"]
    assert time.monotonic() - start < 15
    assert {m["status"] for m in marks} == {"missing"}
    assert "too long" in marks[0]["message"]
