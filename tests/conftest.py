"""Every test has its own progress file, and all share one cache that is not the user's."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

QUICK = os.environ.get("COMPRESSLAB_TESTS") == "quick"
# A fresh clone is judged by the same cases every time; those of an author's own run are new each time.
settings.register_profile(
    "course",
    deadline=None,
    derandomize="CI" in os.environ,
    max_examples=10 if QUICK else 60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("course")
torch.set_num_threads(1)
# The course's own settings are for the notebooks: a test sets those that it is about.
for variable in ("SEED", "SEEDS", "STEPS", "STRICT", "CLAIMS", "THREADS", "DATASET"):
    os.environ.pop(f"COMPRESSLAB_{variable}", None)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "progress.json"))


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["COMPRESSLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
