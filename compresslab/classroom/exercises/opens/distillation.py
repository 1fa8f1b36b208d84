"""Lab 08, open: a student of at most 40 kB, a teacher's answers, and few labels."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

LABELLED, ROOM = 300, 40_000


def train_student(
    images: np.ndarray, logits: np.ndarray, labels: np.ndarray, room: int
) -> tuple[Arrays, Arrays]:
    """From the teacher's softened answers on every image, labelled or not, with a falling rate."""
    return _student(images, logits, labels, room)


def _student(
    images,
    logits,
    labels,
    room,
    soft=True,
    everything=True,
    epochs=60,
    rate=7e-3,
    temperature=2.0,
    noise=0.15,
    hidden=None,
):
    torch.manual_seed(0)
    classes = logits.shape[1]
    hidden = hidden or (room // 4 - classes) // (images.shape[1] + 1 + classes)
    student = torch.nn.Sequential(
        torch.nn.Linear(images.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, classes)
    )
    known = len(labels)
    count = len(images) if everything else known
    x, z = torch.from_numpy(images[:count]), torch.from_numpy(logits[:count])
    y = torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(student.parameters(), rate, weight_decay=0.01)
    steps, step = epochs * -(-count // 100), 0
    for _ in range(epochs):
        for batch in torch.randperm(count).split(100):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-5
            seen = x[batch] + noise * torch.randn(len(batch), x.shape[1])
            out, step = student(seen), step + 1
            if soft:
                log_q = torch.log_softmax(out / temperature, 1)
                loss = (
                    -(torch.softmax(z[batch] / temperature, 1) * log_q).sum(1).mean()
                    * temperature**2
                )
            else:
                loss = torch.nn.functional.cross_entropy(out, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    first, last = student[0], student[2]
    return (
        (first.weight.detach().numpy(), last.weight.detach().numpy()),
        (first.bias.detach().numpy(), last.bias.detach().numpy()),
    )


def _labels_alone(images, logits, labels, room):
    """The plain way: from the images that have labels."""
    return _student(images, logits, labels, room, soft=False, everything=False, epochs=100)


def _labelled_alone(images, logits, labels, room):
    return _student(images, logits, labels, room, everything=False, epochs=100)


def _too_large(images, logits, labels, room):
    return _student(images, logits, labels, room, epochs=1, hidden=64)


def measured(case: Case, found: object) -> float | str:
    """Accuracy of the student that came back; a sentence if it breaks the rules."""
    if type(found) not in (tuple, list) or len(found) != 2:
        return "the answer must be the weights and the biases"
    weights, biases = found
    wrong = networks.malformed(weights, biases)
    if wrong:
        return wrong
    used, room = sum(4 * a.size for a in (*weights, *biases)), case.args[3]
    if used > room:
        return f"the student has {used:,} bytes of float32, allowed are {room:,}"
    return networks.accuracy(weights, biases)


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    order = generator.permutation(len(x))[:6_000]
    label = f"{LABELLED} labels, {len(order):,} images with the teacher's answers, {ROOM:,} bytes"
    logits = networks.teacher_logits()[order]
    return [Case(label, (x[order], logits, y[order[:LABELLED]], ROOM))]


TRAIN_STUDENT = Exercise(
    id="distill.train_student",
    title="A student of 40 kB",
    points=9,
    reference=train_student,
    cases=_cases,
    lines=25,
    medals=Medals(
        bronze=40.0,
        silver=63.0,
        gold=71.0,
        measure=measured,
        unit="% of the validation images",
        plain=_labels_alone,
    ),
    mistakes=(
        Mistake(
            "labels alone",
            _labels_alone,
            "The teacher was not asked. It has an answer for every image, with or without a label.",
        ),
        Mistake(
            "the labelled images alone",
            _labelled_alone,
            "The teacher's answers are used, but only on the images that have labels: it answers for all "
            "others, "
            "too.",
        ),
        Mistake(
            "too large",
            _too_large,
            "Count the bytes: four for every weight and bias. How wide may the hidden layer be?",
        ),
    ),
)

EXERCISES = (TRAIN_STUDENT,)
