"""What makes the notebooks a course: exercises with feedback, predictions, progress, release.

from compresslab.classroom import adopt, check, explore, predict
"""

from compresslab.classroom.check import adopt, check
from compresslab.classroom.widgets import explore, predict

__all__ = ["adopt", "check", "explore", "predict"]
