"""What makes the notebooks a course: exercises with feedback, predictions, progress, release.

from compresslab.classroom import adopt, check, explore, predict
"""

try:
    from compresslab.classroom.check import adopt, check
    from compresslab.classroom.widgets import explore, predict
except ModuleNotFoundError as missing:
    # In a browser there is neither torch nor Numba, and `light` does without them.
    _missing = missing

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ImportError(f"{name} needs {_missing.name}, which is not installed") from _missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["adopt", "check", "explore", "predict"]
