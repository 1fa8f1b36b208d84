"""Held to the teacher by divergence, cross-entropy, or the squared difference of logits: does it matter?

    kl              T^2 KL(teacher || student) at temperature T         Hinton et al. 2015
    cross entropy   the same gradient: the teacher's entropy is a constant
    mse             half the mean squared difference of logits          Ba and Caruana 2014: T without end

There are two controls: the same student on the labels of the same images, and on all labels that teacher and
student have had, for as many images as both have seen. The losses' gradients differ in size, so each lesson
has the better of two learning rates, by validation images.
"""

from torch import nn

from compresslab.data import Examples, Split, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques import distill
from compresslab.training import Loss, cross_entropy, evaluate

EPOCHS, TEACHING, TEMPERATURE = 7, 5, 4.0
RATES = (0.02, 0.1)
LESSONS = {
    "divergence": "kl",
    "cross-entropy": "cross_entropy",
    "squared difference of logits": "mse",
}


def run(seed: int, size: int) -> Rows:
    """A teacher on one part of the images, and a student on the rest for each lesson."""
    data = load("glyphs", train_size=size, seed=seed)
    half = 3 * size // 4
    few = Examples(data.train.x[half:], data.train.y[half:])
    teacher = grow(lambda: ResNet8(data), data.train.first(half), TEACHING, 0.2, seed)
    answers = distill.cached(teacher, few.x)
    lessons = {"labels": cross_entropy}
    for name, distance in LESSONS.items():
        lessons[name] = distill.Distillation(answers, 0.0, TEMPERATURE, distance)
    both = EPOCHS * len(few) + TEACHING * half
    rows = {"the teacher": _row(TEACHING * half, evaluate(teacher, data.test))}
    for name, loss in lessons.items():
        students = [_taught(data, few, rate, seed, loss) for rate in RATES]
        student = max(students, key=lambda network: evaluate(network, data.val))
        images = EPOCHS * len(few) if name == "labels" else both
        rows[f"student, {name}"] = _row(images, evaluate(student, data.test))
    epochs = both / len(data.train)
    students = [_taught(data, data.train, rate, seed, cross_entropy, epochs) for rate in RATES]
    student = max(students, key=lambda network: evaluate(network, data.val))
    rows["student, all labels"] = _row(both, evaluate(student, data.test))
    return rows


def _row(images: int, accuracy: float) -> dict[str, float]:
    return {"images seen, thousands": images / 1e3, "test accuracy, %": accuracy}


def _taught(
    data: Split, examples: Examples, rate: float, seed: int, loss: Loss, epochs: float = EPOCHS
) -> nn.Module:
    return grow(
        lambda: VGGLike(data, widths=(8, 16, 32)),
        *(examples, epochs, rate, seed),
        loss=loss,
        batch_size=64,
    )


def _reached(rows: Rows, lesson: str) -> float:
    return rows[f"student, {lesson}"]["test accuracy, %"]


EXPERIMENT = Experiment(
    question="Divergence, cross-entropy, squared difference: does it matter how a student is taught?",
    run=run,
    size=8_000,
    findings=(
        Finding(
            "Cross-entropy with the teacher's answers is the divergence: less than half a point apart",
            lambda r: 0.5 - abs(_reached(r, "cross-entropy") - _reached(r, "divergence")),
            "points",
        ),
        Finding(
            "Divergence is better than the squared difference of logits",
            lambda r: _reached(r, "divergence") - _reached(r, "squared difference of logits"),
            "points",
        ),
        Finding(
            "Where all labels are at hand, the student learns more than a point more from them, for as many "
            "images as teacher and student have seen, than from a teacher on a quarter of the images",
            lambda r: _reached(r, "all labels") - max(_reached(r, name) for name in LESSONS) - 1,
            "points",
        ),
    ),
    note="A student's images count those of its teacher's training.",
)
