"""Does a teacher of the student's own family teach better? Two families of teachers and of students, crossed.

The two teachers are brought to equal accuracy (the better one stops earlier), so that family is not size or
quality in disguise. If kinship counts, the students do best with their own kind: the sum of the two like
pairs is above that of the two unlike ones.
"""

from compresslab.data import Examples, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques import distill
from compresslab.training import evaluate

EPOCHS, TEMPERATURE = 7, 4.0


def run(seed: int, size: int) -> Rows:
    """Two teachers, two students of each family."""
    data = load("glyphs", train_size=size, seed=seed)
    half = 3 * size // 4
    seen = data.train.first(half)
    few = Examples(data.train.x[half:], data.train.y[half:])
    teachers = {
        "plain": grow(lambda: VGGLike(data, widths=(32, 64, 128)), seen, 6, 0.2, seed),
        "residual": grow(lambda: ResNet8(data), seen, 4, 0.2, seed),
    }
    students = {
        "plain": lambda: VGGLike(data, widths=(8, 16, 32)),
        "residual": lambda: ResNet8(data, widths=(6, 12, 24)),
    }
    rows = {
        f"{name} teacher": {"test accuracy, %": evaluate(network, data.test)}
        for name, network in teachers.items()
    }
    for kind, make in students.items():
        rows[f"{kind} student, labels"] = {
            "test accuracy, %": evaluate(
                grow(make, few, EPOCHS, 0.1, seed, batch_size=64), data.test
            )
        }
        for teacher, network in teachers.items():
            loss = distill.Distillation(distill.cached(network, few.x), 0.1, TEMPERATURE)
            student = grow(make, few, EPOCHS, 0.1, seed, loss=loss, batch_size=64)
            rows[f"{kind} student, {teacher} teacher"] = {
                "test accuracy, %": evaluate(student, data.test)
            }
    return rows


def kinship(rows: Rows) -> float:
    """What kinship is worth to a student: half the difference between like and unlike pairs, in points."""

    def reached(student: str, teacher: str) -> float:
        return rows[f"{student} student, {teacher} teacher"]["test accuracy, %"]

    like = reached("plain", "plain") + reached("residual", "residual")
    return (like - reached("plain", "residual") - reached("residual", "plain")) / 2


REACHED = "test accuracy, %"

EXPERIMENT = Experiment(
    question="Two teachers of the same accuracy, one of the student's family: does kinship help?",
    run=run,
    size=8_000,
    findings=(
        Finding(
            "A plain student of a plain teacher is better than one of labels",
            lambda r: (
                r["plain student, plain teacher"][REACHED] - r["plain student, labels"][REACHED]
            ),
            "points",
        ),
    ),
    note="Like pairs are above unlike ones on average, but not in every seed: no finding.",
)
