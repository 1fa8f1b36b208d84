"""A cluster of two workers, one of them killed while it grades."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from compresslab.classroom.grading import executors, folder
from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

distributed = pytest.importorskip(
    "distributed", reason=f"Dask is not installed: {executors.INSTALL}"
)
pytestmark = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
ROOT = Path(__file__).parents[3]


def test_a_worker_is_killed_and_every_submission_is_graded(tmp_path):
    submissions = tmp_path / "in"
    for number in range(5):
        place = submissions / f"learner{number}"
        place.mkdir(parents=True)
        shutil.copy(ROOT / "solutions" / "00_measure_first.ipynb", place)
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        host="127.0.0.1",
        local_directory=str(tmp_path / "dask"),
        silence_logs=50,
    )
    try:
        pids = [worker.pid for worker in cluster.workers.values()]
        killed = threading.Timer(3, lambda: os.kill(pids[0], signal.SIGKILL))
        with executors.open_executor(1, cluster.scheduler_address) as executor:
            killed.start()
            marks = folder.grade_folder(
                submissions, "00", tmp_path / "marks.csv", executor, seed=1, progress=False
            )
        killed.join()
    finally:
        cluster.close()
    assert len({m.learner for m in marks}) == 5
    assert {m.status for m in marks} == {"passed"}
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pids[0]}").exists():
        time.sleep(0.1)


def test_without_dask_a_scheduler_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    refused = pytest.raises(ModuleNotFoundError, match=r"pip install compresslab\[instructor\]")
    with refused, executors.open_executor(1, "tcp://127.0.0.1:1"):
        pass
