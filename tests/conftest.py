"""Every test has its own progress file, and all share one cache that is not the user's."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "course", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("course")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.delenv("COMPRESSLAB_DATASET", raising=False)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    os.environ["COMPRESSLAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
