"""What makes the notebooks a course: exercises with feedback, predictions, progress, release.

from compresslab.classroom import adopt, check, explore, predict

A name is imported when it is used: the command line, and a browser, know the course without torch.
"""

import importlib

PLACES = {"adopt": "checking", "check": "checking", "explore": "widgets", "predict": "prediction"}

__all__ = ["adopt", "check", "explore", "predict"]


def __getattr__(name: str) -> object:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"compresslab.classroom.{PLACES[name]}")
    except ModuleNotFoundError as missing:
        raise ImportError(f"{name} needs {missing.name}, which is not installed") from missing
    globals()[name] = getattr(module, name)
    return globals()[name]
