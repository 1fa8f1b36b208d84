"""What has been passed of the exercises in the browser, as a sentence at the end of each of its pages."""

from compresslab.classroom import light, progress
from compresslab.language import translated
from compresslab.notice import Notice


def so_far() -> Notice:
    """What has been passed of all exercises in the browser."""
    stored = progress.read()
    exercises = [light.read(id) for id in light.ids()]
    points = {e.id: progress.earned(stored.get(e.id, {}), e.points) for e in exercises}
    passed = sum(bool(stored.get(e.id, {}).get("passed")) for e in exercises)
    most = sum(e.points for e in exercises)
    words = (
        f"{passed} of {len(exercises)} exercises in the browser are passed: "
        f"{sum(points.values()):g} of {most:g} points."
    )
    return Notice(translated(words), kind="held" if passed == len(exercises) else "note")
