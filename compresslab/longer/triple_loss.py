"""DistilBERT's triple loss taken apart: the masked word, the teacher's answers, the direction of the states.

Sanh et al. (2019, table 4) take one of the three losses away at a time: answers matter most, masked words
least. Here the masked word *is* the task (which keyword stood here?), so the three are labels, answers and
cosine. And *dynamic masking* (Liu et al. 2019, RoBERTa, section 4.1): besides the keyword, a tenth of the
other words is hidden, once for all epochs or anew in every batch; the teacher answers for the sentence as
it was hidden.

DistilBERT drops BERT's token types (a sentence pair's A and B), its pooler (the layer on the first token)
and every second layer; the encoder here never had the first two.
"""

import torch

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.data.text import Sequences
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, reached
from compresslab.models import Encoder
from compresslab.techniques import distill, inherit
from compresslab.training import Batch, cross_entropy, evaluate, seed_everything

EPOCHS, RATE, HIDDEN = 2.0, 0.001, 0.1
MASK = 2  # the token that stands for a hidden word
INSIDE = {"layers.2": "layers.5"}


def run(seed: int, size: int) -> Rows:
    """A student of three inherited layers for each set of losses, and for two ways of hiding words."""
    data = keywords.load(train_size=size, seed=seed)
    teacher = pretrained.keyword_teacher()
    lessons = {
        "labels": (1.0, False),
        "labels and answers": (0.5, False),
        "answers": (0.0, False),
        "labels and direction": (1.0, True),
        "answers and direction": (0.0, True),
        "labels, answers and direction": (0.5, True),
    }
    rows = {}
    for name, (alpha, direction) in lessons.items():
        student = _taught(
            teacher, data.train, seed, _lesson(teacher, data.train.x, alpha, direction)
        )
        rows[name] = {"test accuracy, %": evaluate(student, data.test)}
    seed_everything(seed)
    once = Sequences(hidden(data.train.x), data.train.y)
    student = _taught(teacher, once, seed, _lesson(teacher, once.x, 0.5, False))
    rows["labels and answers, words hidden once"] = {
        "test accuracy, %": evaluate(student, data.test)
    }
    student = _taught(
        teacher, data.train, seed, _anew(distill.Distillation(distill.online(teacher), 0.5, 1.0))
    )
    rows["labels and answers, words hidden anew"] = {
        "test accuracy, %": evaluate(student, data.test)
    }
    return rows


def hidden(tokens: torch.Tensor) -> torch.Tensor:
    """A copy with a tenth of the words masked; nothing, unknown words and the task's own mask stay."""
    rolls = torch.rand(tokens.shape)
    return torch.where((rolls < HIDDEN) & (tokens > MASK), MASK, tokens)


def _anew(lesson: distill.Distillation) -> object:
    return lambda model, batch: lesson(model, Batch(hidden(batch.x), batch.y, batch.index))


def _lesson(teacher: Encoder, x: torch.Tensor, alpha: float, direction: bool) -> object:
    answers = distill.Distillation(distill.cached(teacher, x), alpha, 1.0)
    if not direction:
        return answers if alpha < 1 else cross_entropy
    return distill.Hints(teacher, INSIDE, answers, "cosine", keep=lambda b: b.x != 0, cached_on=x)


def _taught(teacher: Encoder, sentences: Sequences, seed: int, loss: object) -> Encoder:
    return grow(
        lambda: inherit.inherit(pretrained.keyword_encoder(width=64, layers=3), teacher, [0, 2, 4]),
        *(sentences, EPOCHS, RATE, seed),
        batch_size=64,
        loss=loss,
        hooks=lambda _: [loss] if isinstance(loss, distill.Hints) else [],
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
        in_turn=True,
    )


EXPERIMENT = Experiment(
    question="Of DistilBERT's three losses, which does the work?",
    run=run,
    size=1_500,
    findings=(
        Finding(
            "Answers and direction are better than labels",
            lambda r: reached(r, "answers and direction") - reached(r, "labels"),
            "points",
        ),
        Finding(
            "Labels add less than a point to answers and direction",
            lambda r: (
                1
                - (
                    reached(r, "labels, answers and direction")
                    - reached(r, "answers and direction")
                )
            ),
            "points",
        ),
        Finding(
            "Hiding words anew is worth less than two points over hiding them once",
            lambda r: (
                2
                - abs(
                    reached(r, "labels and answers, words hidden anew")
                    - reached(r, "labels and answers, words hidden once")
                )
            ),
            "points",
        ),
    ),
)
