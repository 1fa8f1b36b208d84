"""Lab 08: soft targets, the loss, its gradient, a falling temperature, attention maps."""

import numpy as np
import torch

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.techniques import distill as library

f32 = np.float32


def _numbers(generator: np.random.Generator, *shape: int) -> np.ndarray:
    return generator.normal(0, 2, shape).astype(f32)


def _softmax(values, axis=1):
    shifted = np.exp(values - values.max(axis, keepdims=True))
    return (shifted / shifted.sum(axis, keepdims=True)).astype(f32)


# ---- soft targets ----------------------------------------------------------------------------------
def soft_targets(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / T)."""
    return _softmax(logits / f32(temperature))


def _soft_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one example, T = 1", (f32([[1.0, 2.0]]), 1.0)),
        Case("one example, T = 4", (f32([[4.0, 0.0, -4.0]]), 4.0)),
        Case("several examples", (_numbers(generator, 3, 5), 2.0)),
        Case("colder than 1", (_numbers(generator, 2, 4), 0.5)),
        Case("logits far apart", (f32([[900.0, 0.0, -900.0]]), 1.0)),
        Case("very large logits", (f32([[800.0, 790.0], [-900.0, -880.0]]), 2.0)),
    ]


def _many_logits(generator: np.random.Generator) -> Case:
    return Case("60,000 examples", (generator.normal(0, 2, (60_000, 26)).astype(np.float32), 2.0))


SOFT_TARGETS = Exercise(
    id="distill.soft_targets",
    title="Soft targets",
    points=1,
    reference=soft_targets,
    cases=_soft_cases,
    large=_many_logits,
    lines=3,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "multiplied by T",
            lambda z, t: _softmax(z * f32(t)),
            "A higher temperature makes answers softer: divide by it.",
        ),
        Mistake(
            "divided after the softmax",
            lambda z, t: _softmax(z) / f32(t),
            "The logits are divided, and then softmax is taken. Probabilities must add up to 1.",
        ),
        Mistake(
            "no temperature",
            lambda z, t: _softmax(z),
            "The temperature is not used.",
        ),
        Mistake(
            "one maximum for all",
            lambda z, t: _overflowing(z / f32(t), (z / f32(t)).max()),
            "Each row has its own maximum: behind that of another row nothing may be left but zeros.",
        ),
        Mistake(
            "one sum for all",
            lambda z, t: _summed_over_all(z / f32(t)),
            "Every row adds up to 1, not all of them together.",
        ),
        Mistake(
            "over the examples",
            lambda z, t: _softmax(z / f32(t), axis=0),
            "Each row is one example, whose classes add up to 1. You added up over the examples.",
        ),
        Mistake(
            "overflow",
            lambda z, t: _overflowing(z / f32(t)),
            "exp of a large number is infinite. Take off each row's own maximum of what you exponentiate: "
            "the result is the same.",
            also=(lambda z, t: _overflowing(z / f32(t), z.max(1, keepdims=True)),),
        ),
        Mistake(
            "powers of the probabilities, not divided again",
            lambda z, t: _softmax(z) ** f32(1 / t),
            "p ** (1/T) is right up to a factor: each row has to be divided by its sum again.",
        ),
    ),
)


def _overflowing(z, off=0):
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        e = np.exp(z - off)
        return e / e.sum(1, keepdims=True)


def _summed_over_all(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum()


# ---- the loss --------------------------------------------------------------------------------------
def distillation_loss(
    student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, alpha: float, temperature: float
) -> float:
    """The library's loss of one batch."""
    s, t = torch.from_numpy(student).double(), torch.from_numpy(teacher).double()
    hard = torch.nn.functional.cross_entropy(s, torch.from_numpy(labels))
    return float(alpha * hard + (1 - alpha) * library.soft_loss(s, t, temperature))


def _loss_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, n: int, classes: int, alpha: float, t: float) -> Case:
        labels = generator.integers(0, classes, n)
        both = _numbers(generator, n, classes), _numbers(generator, n, classes)
        return Case(label, (*both, labels, alpha, t))

    same = _numbers(generator, 2, 3)
    return [
        case("only the teacher, T = 1", 1, 2, 0.0, 1.0),
        case("only the teacher, T = 4", 2, 3, 0.0, 4.0),
        case("only the labels", 2, 3, 1.0, 4.0),
        Case(
            "the student answers like the teacher", (same, same.copy(), np.array([0, 2]), 0.5, 2.0)
        ),
        case("both", 3, 5, 0.3, 3.0),
        Case(
            "very large logits",
            (f32([[900.0, -800.0, 0.0]]), f32([[-850.0, 800.0, 1.0]]), np.array([1]), 0.5, 2.0),
        ),
        case("a larger batch", 8, 4, 0.1, 2.0),
    ]


def _many_examples(generator: np.random.Generator) -> Case:
    student, teacher = generator.normal(0, 2, (2, 15_000, 26)).astype(np.float32)
    return Case("15,000 examples", (student, teacher, generator.integers(0, 26, 15_000), 0.1, 2.0))


def _parts(student, teacher, labels, t):
    """Cross-entropy, log-probabilities of student and teacher at T, the teacher's probabilities."""

    def log_softmax(z):
        z = z.astype(np.float64)
        z = z - z.max(1, keepdims=True)
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    hard = -log_softmax(student)[np.arange(len(labels)), labels].mean()
    return hard, log_softmax(student / t), log_softmax(teacher / t)


def _loss(s, t, y, alpha, temp, soft, factor=None, swap=False):
    hard, log_q, log_p = _parts(s, t, y, temp)
    value = soft(log_q, log_p) * (temp**2 if factor is None else factor(temp))
    alpha = 1 - alpha if swap else alpha
    return float(alpha * hard + (1 - alpha) * value)


def _kl(log_q, log_p):
    return (np.exp(log_p) * (log_p - log_q)).sum(1).mean()


def _teacher_at_one(s, t, y, alpha, temp):
    hard, log_q, _ = _parts(s, t, y, temp)
    _, _, log_p = _parts(s, t, y, 1.0)
    return float(alpha * hard + (1 - alpha) * temp**2 * _kl(log_q, log_p))


def _student_at_one(s, t, y, alpha, temp):
    hard, log_q, _ = _parts(s, t, y, 1.0)
    _, _, log_p = _parts(s, t, y, temp)
    return float(alpha * hard + (1 - alpha) * temp**2 * _kl(log_q, log_p))


def _hard_at_t(s, t, y, alpha, temp):
    hard, _, _ = _parts(s / f32(temp), t, y, 1.0)
    return float(alpha * hard + _loss(s, t, y, 0.0, temp, _kl) * (1 - alpha))


DISTILLATION_LOSS = Exercise(
    id="distill.distillation_loss",
    title="The loss",
    points=3,
    reference=distillation_loss,
    cases=_loss_cases,
    large=_many_examples,
    lines=6,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "T² forgotten",
            lambda *a: _loss(*a, _kl, lambda t: 1.0),
            "The soft part's gradient shrinks with 1/T²; without the factor a hot teacher falls silent.",
        ),
        Mistake(
            "T instead of T²",
            lambda *a: _loss(*a, _kl, lambda t: t),
            "Once for the student's softened answer and once for the derivative: the factor is T squared.",
        ),
        Mistake(
            "the wrong way round",
            lambda *a: _loss(*a, lambda q, p: _kl(p, q)),
            "KL(teacher || student): the teacher's probabilities weigh the difference of the logarithms.",
        ),
        Mistake(
            "alpha on the teacher's side",
            lambda *a: _loss(*a, _kl, swap=True),
            "alpha is the share of the labels; the teacher has 1 - alpha.",
        ),
        Mistake(
            "mean over classes too",
            lambda *a: _loss(*a, lambda q, p: (np.exp(p) * (p - q)).mean()),
            "A divergence is a *sum* over classes, and a mean over examples.",
        ),
        Mistake(
            "added up over the batch",
            lambda *a: _loss(*a, lambda q, p: (np.exp(p) * (p - q)).sum()),
            "A sum over classes, and a *mean* over examples.",
        ),
        Mistake(
            "labels compared at T",
            _hard_at_t,
            "Only the teacher's part is softened. Labels are compared with the answer at temperature 1.",
        ),
        Mistake(
            "T² over everything",
            lambda s, t, y, alpha, temp: temp**2 * _loss(s, t, y, alpha, temp, _kl, lambda _: 1.0),
            "T² belongs to the soft part alone: the labels' gradient does not shrink.",
        ),
        Mistake(
            "alpha forgotten at the labels",
            lambda s, t, y, alpha, temp: float(
                _parts(s, t, y, temp)[0] + _loss(s, t, y, 0.0, temp, _kl) * (1 - alpha)
            ),
            "The labels' part is weighed with alpha.",
        ),
        Mistake(
            "the student not softened",
            _student_at_one,
            "Both answers are softened with the same temperature.",
        ),
        Mistake(
            "the teacher not softened",
            _teacher_at_one,
            "Both answers are softened with the same temperature.",
        ),
        Mistake(
            "cross-entropy instead of the divergence",
            lambda *a: _loss(*a, lambda q, p: -(np.exp(p) * q).sum(1).mean()),
            "Its gradient is the same, its value is not: the divergence is 0 where both agree. Take off the "
            "teacher's own entropy.",
        ),
    ),
)


# ---- the gradient ----------------------------------------------------------------------------------
def soft_gradient(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """Autograd's gradient of T^2 KL in the student's logits."""
    z = torch.from_numpy(student.copy()).requires_grad_()
    library.soft_loss(z, torch.from_numpy(teacher), temperature).backward()
    return z.grad.numpy()


def _gradient_cases(generator: np.random.Generator) -> list[Case]:
    def case(label: str, n: int, classes: int, t: float) -> Case:
        return Case(label, (_numbers(generator, n, classes), _numbers(generator, n, classes), t))

    return [
        case("one example, T = 1", 1, 2, 1.0),
        case("one example, T = 3", 1, 3, 3.0),
        case("a batch", 4, 3, 2.0),
        case("hot", 2, 5, 20.0),
        case("cold", 2, 4, 0.5),
        Case("very large logits", (f32([[900.0, -800.0]]), f32([[-850.0, 800.0]]), 2.0)),
    ]


def _more_examples(generator: np.random.Generator) -> Case:
    student, teacher = generator.normal(0, 2, (2, 400, 26)).astype(np.float32)
    return Case("400 examples", (student, teacher, 2.0))


def _gap(s, t, temp):
    return soft_targets(s, temp) - soft_targets(t, temp)


def _limit(s, t):
    centred = (s - s.mean(1, keepdims=True)) - (t - t.mean(1, keepdims=True))
    return centred / f32(s.size)


SOFT_GRADIENT = Exercise(
    id="distill.soft_gradient",
    title="What the student feels",
    points=2,
    reference=soft_gradient,
    cases=_gradient_cases,
    large=_more_examples,
    lines=2,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "the sign",
            lambda s, t, temp: -f32(temp) * _gap(s, t, temp) / len(s),
            "A loss falls along minus its gradient. Where the student says more than the teacher, the "
            "gradient is positive.",
        ),
        Mistake(
            "divided by T",
            lambda s, t, temp: _gap(s, t, temp) / f32(temp) / len(s),
            "Softening divides by T, but the loss carries T²: what is left is T.",
        ),
        Mistake(
            "T² kept whole",
            lambda s, t, temp: f32(temp) ** 2 * _gap(s, t, temp) / len(s),
            "The derivative of z / T brings one 1 / T: of T² one T is left.",
        ),
        Mistake(
            "T left out",
            lambda s, t, temp: _gap(s, t, temp) / len(s),
            "T² from the loss times 1 / T from the chain rule leaves a factor T.",
        ),
        Mistake(
            "not a mean over the batch",
            lambda s, t, temp: f32(temp) * _gap(s, t, temp),
            "The loss is a mean over the examples: so is its gradient.",
        ),
        Mistake(
            "a mean over the classes, too",
            lambda s, t, temp: f32(temp) * _gap(s, t, temp) / s.size,
            "The divergence is a sum over classes: divide by the number of examples only.",
        ),
        Mistake(
            "the limit for high temperatures",
            lambda s, t, temp: _limit(s, t),
            "Matching logits is what becomes of it when T is very large. At any T it is the difference "
            "of the softened answers.",
        ),
        Mistake(
            "at temperature 1",
            lambda s, t, temp: f32(temp) * _gap(s, t, 1.0) / len(s),
            "Both answers are softened answers.",
        ),
    ),
)


# ---- the temperature -------------------------------------------------------------------------------
def falling_temperature(step: int, steps: int, high: float, low: float) -> float:
    """The library's schedule."""
    return float(library.falling(high, low)(step / steps))


def _temperature_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("the start", (0, 10, 8.0, 2.0)),
        Case("half-way", (5, 10, 8.0, 2.0)),
        Case("the end", (10, 10, 8.0, 2.0)),
        Case("a constant", (3, 7, 4.0, 4.0)),
        Case("somewhere", (int(generator.integers(1, 90)), 100, 10.0, 1.0)),
        Case("down to below 1", (3, 4, 6.0, 0.5)),
    ]


def _many_steps(_: np.random.Generator) -> Case:
    return Case("step 200,000 of 400,000", (200_000, 400_000, 8.0, 1.0))


FALLING_TEMPERATURE = Exercise(
    id="distill.falling_temperature",
    title="Hot early, cool late",
    points=1,
    reference=falling_temperature,
    cases=_temperature_cases,
    large=_many_steps,
    lines=1,
    tolerance=1e-6,
    mistakes=(
        Mistake(
            "in a straight line",
            lambda i, n, high, low: high + (low - high) * i / n,
            "Every step *multiplies* the temperature by the same factor: half-way from 8 to 2 is 4, not 5.",
        ),
        Mistake(
            "rising",
            lambda i, n, high, low: low * (high / low) ** (i / n),
            "High at the start, low at the end.",
        ),
        Mistake(
            "the ratio upside down",
            lambda i, n, high, low: high * (high / low) ** (i / n),
            "That grows beyond the start. The factor is low / high.",
        ),
        Mistake(
            "per step instead of in all",
            lambda i, n, high, low: max(low, high * (low / high) ** i),
            "That is there after one step. The whole training takes it from high to low: the exponent is the "
            "share of the steps that are done.",
            also=(lambda i, n, high, low: high * (low / high) ** i,),
        ),
        Mistake(
            "one step short",
            lambda i, n, high, low: high * (low / high) ** (i / (n + 1)),
            "At step `steps` the temperature is `low`.",
        ),
        Mistake(
            "one step early",
            lambda i, n, high, low: high * (low / high) ** (i / (n - 1)),
            "`low` is reached at step `steps`, not one step before.",
            also=(lambda i, n, high, low: high * (low / high) ** ((i + 1) / n),),
        ),
    ),
)


# ---- attention maps --------------------------------------------------------------------------------
def attention_map(features: np.ndarray) -> np.ndarray:
    """The library's map."""
    return library.attention_map(torch.from_numpy(features)).numpy()


def _map_cases(generator: np.random.Generator) -> list[Case]:
    return [
        Case("one channel of two pixels", (f32([[[[3.0, -4.0]]]]),)),
        Case("two channels", (f32([[[[1.0, 0.0]], [[1.0, 2.0]]]]),)),
        Case("a batch", (_numbers(generator, 3, 4, 2, 2),)),
        Case("an oblong image", (_numbers(generator, 2, 3, 2, 5),)),
        Case(
            "two images of very different size",
            (_numbers(generator, 2, 2, 3, 3) * f32([[[[1]]], [[[100]]]]),),
        ),
    ]


def _many_maps(generator: np.random.Generator) -> Case:
    return Case("100,000 images", (generator.normal(0, 2, (100_000, 16, 3, 3)).astype(np.float32),))


def _normal(energy, axis=1):
    return (energy / np.sqrt(np.square(energy).sum(axis, keepdims=True))).astype(f32)


ATTENTION_MAP = Exercise(
    id="distill.attention_map",
    title="Where does it look?",
    points=2,
    reference=attention_map,
    cases=_map_cases,
    large=_many_maps,
    lines=3,
    tolerance=1e-4,
    mistakes=(
        Mistake(
            "signed values",
            lambda x: _normal(x.mean(1).reshape(len(x), -1)),
            "Positive and negative channels cancel. Take squares.",
        ),
        Mistake(
            "magnitudes",
            lambda x: _normal(np.abs(x).mean(1).reshape(len(x), -1)),
            "The map is made of squares: strong answers count more.",
        ),
        Mistake(
            "not of length 1",
            lambda x: np.square(x).mean(1).reshape(len(x), -1),
            "Teacher and student have features of different size: only the *shape* of the map is compared. "
            "Divide by its length.",
        ),
        Mistake(
            "adding up to 1",
            lambda x: (
                np.square(x).mean(1).reshape(len(x), -1)
                / np.square(x).mean(1).reshape(len(x), -1).sum(1, keepdims=True)
            ),
            "Length 1 means that the *squares* add up to 1.",
        ),
        Mistake(
            "the square of the mean",
            lambda x: _normal(np.square(x.mean(1)).reshape(len(x), -1)),
            "First the squares, then the mean: channels of opposite sign must not cancel.",
        ),
        Mistake(
            "the root of the mean square",
            lambda x: _normal(np.sqrt(np.square(x).mean(1)).reshape(len(x), -1)),
            "The map is made of mean squares, without a root.",
        ),
        Mistake(
            "the strongest channel",
            lambda x: _normal(np.square(x).max(1).reshape(len(x), -1)),
            "The mean over the channels, not their maximum.",
        ),
        Mistake(
            "divided by the largest",
            lambda x: (
                np.square(x).mean(1).reshape(len(x), -1)
                / np.square(x).mean(1).reshape(len(x), -1).max(1, keepdims=True)
            ),
            "Length 1 means that the *squares* add up to 1, not that the largest value is 1.",
        ),
        Mistake(
            "over positions instead of channels",
            lambda x: _normal(np.square(x).mean((2, 3))),
            "The map says where: average over the channels and keep the positions.",
        ),
        Mistake(
            "length 1 over the batch",
            lambda x: _normal(np.square(x).mean(1).reshape(len(x), -1), axis=None),
            "Every image has a map of its own, of length 1.",
        ),
    ),
)

EXERCISES = (SOFT_TARGETS, DISTILLATION_LOSS, SOFT_GRADIENT, FALLING_TEMPERATURE, ATTENTION_MAP)
