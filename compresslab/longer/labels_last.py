"""At last on labels: a student after its lessons, tuned on the labels alone, beside lessons to the end.

An article ends distillation with fine-tuning on the labels. Both students below take as many steps; one has
labels alone in the last ones.
"""

import copy

from compresslab.data import Examples, load
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.models import ResNet8, VGGLike
from compresslab.techniques import distill
from compresslab.training import evaluate

EPOCHS, LAST, RATE = 6, 3, 0.02


def run(seed: int, size: int) -> Rows:
    """A taught student, and four ways to end."""
    data = load("glyphs", train_size=size, seed=seed)
    half = 3 * size // 4
    few = Examples(data.train.x[half:], data.train.y[half:])
    teacher = grow(lambda: ResNet8(data), data.train.first(half), 5, 0.2, seed)
    lesson = distill.Distillation(distill.cached(teacher, few.x), 0.1, 4.0)
    taught = grow(
        lambda: VGGLike(data, widths=(8, 16, 32)),
        few,
        EPOCHS,
        0.1,
        seed,
        loss=lesson,
        batch_size=64,
    )
    rows = {"taught": {"test accuracy, %": evaluate(taught, data.test)}}
    for name, options in (
        ("then labels alone", {}),
        ("then more of the teacher", {"loss": lesson}),
    ):
        student = train(copy.deepcopy(taught), few, LAST, RATE, seed, batch_size=64, **options)
        rows[f"taught, {name}"] = {"test accuracy, %": evaluate(student, data.test)}
    return rows


REACHED = "test accuracy, %"

EXPERIMENT = Experiment(
    question="Should a student's last steps be on labels alone?",
    run=run,
    size=8_000,
    findings=(
        Finding(
            "Last steps on labels alone are better than none",
            lambda r: r["taught, then labels alone"][REACHED] - r["taught"][REACHED],
            "points",
        ),
        Finding(
            "Between labels alone and more of the teacher there are less than two points",
            lambda r: (
                2
                - abs(
                    r["taught, then labels alone"][REACHED]
                    - r["taught, then more of the teacher"][REACHED]
                )
            ),
            "points",
        ),
    ),
)
