"""TinyBERT's two stages, and its loss on embeddings: general text first, the task's answers after.

Jiao et al. (2020) let the small student copy the teacher's embeddings (equation 9), states and attention
scores on general text, and only then learn the task. General text is here what the course has in plenty:
windows of the same source files whose keyword nobody tells. Controls: the same steps of the task's lesson
without the first stage, and the first stage without the embeddings.
"""

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.data.text import Sequences
from compresslab.longer.experiment import Experiment, Finding, Rows, reached, train
from compresslab.techniques import distill
from compresslab.training import evaluate

GENERAL, TASK, RATE = 2.0, 5.0, 0.004
MORE = 4
"""General windows for each of the task's."""


def run(seed: int, size: int) -> Rows:
    """A narrow student by four roads."""
    data = keywords.load(train_size=(1 + MORE) * size, seed=seed)
    few = Sequences(data.train.x[:size], data.train.y[:size])
    general = Sequences(data.train.x[size:], torch.zeros(MORE * size, dtype=torch.int64))
    teacher = pretrained.keyword_teacher()
    answers = distill.Distillation(distill.cached(teacher, few.x), 0.0, 1.0)
    steps = GENERAL * MORE
    rows = {}
    for name, first in (
        ("the task's answers only", None),
        ("the task's answers, as many steps in all", "task"),
        ("first states and scores on general text", ()),
        ("first embeddings, states and scores on general text", ("words",)),
    ):
        student = _fresh(seed)
        if first == "task":
            student = _fit(student, few, steps, seed, answers)
        elif first is not None:
            student = _fit(student, general, GENERAL, seed, _inside(teacher, first))
        student = _fit(student, few, TASK, seed + 1, answers)
        rows[name] = {"test accuracy, %": evaluate(student, data.test)}
    rows["teacher"] = {"test accuracy, %": evaluate(teacher, data.test)}
    return rows


def _fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return pretrained.keyword_encoder(width=32, layers=2, hidden=128)


def _inside(teacher: nn.Module, more: tuple[str, ...]) -> distill.Hints:
    """What is compared on general text: no answers, only what is inside."""
    layers = {f"layers.{i}": f"layers.{j}" for i, j in enumerate(distill.layer_map(2, 6))}
    layers |= {f"{i}.attention.scores": f"{j}.attention.scores" for i, j in list(layers.items())}
    layers |= {name: name for name in more}
    return distill.Hints(teacher, layers, None, "mse", keep=lambda batch: batch.x != 0)


def _fit(student: nn.Module, on: Sequences, epochs: float, seed: int, loss: object) -> nn.Module:
    return train(
        *(student, on, epochs, RATE, seed),
        batch_size=64,
        loss=loss,
        hooks=lambda _: [loss] if isinstance(loss, distill.Hints) else [],
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
        in_turn=True,
    )


EXPERIMENT = Experiment(
    question=(
        "TinyBERT first copies what is inside on general text. What is that stage worth, "
        "and its embeddings?"
    ),
    run=run,
    size=1_500,
    findings=(
        Finding(
            "The general stage is worth more than nothing in its place",
            lambda r: (
                reached(r, "first states and scores on general text")
                - reached(r, "the task's answers only")
            ),
            "points",
        ),
        Finding(
            "The loss on embeddings changes less than half a point",
            lambda r: (
                0.5
                - abs(
                    reached(r, "first embeddings, states and scores on general text")
                    - reached(r, "first states and scores on general text")
                )
            ),
            "points",
        ),
    ),
    note="As many steps more of the task's answers do as well on average.",
)
