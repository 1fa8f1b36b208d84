"""Distillation (知识蒸馏): a small network learns from what a large one says, not only from the labels.

    p_T = softmax(logits / T)                              soft targets, softer at higher temperature T
    loss = alpha * CE(student, label) + (1 - alpha) * T^2 * KL(teacher_T || student_T)

Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2. The T^2 keeps the size of the gradient: it is
(student_T - teacher_T) / T, whose difference shrinks with another 1 / T. For large T and logits of mean 0 the
soft part becomes |student - teacher|^2 / (2 * classes): matching logits (section 2.1).

    where the teacher's answer comes from     `cached` (offline: computed once) or the teacher itself (online)
    which distance                            "kl", "cross_entropy" (the same gradients), "mse" on logits
    which temperature                         a number, or `falling`: high early, low late
    students that teach each other            `Cohort` and `mutual` (Zhang et al. 2018, arXiv:1706.00384)
    what is inside                            `Hints`: hidden states, cosine, attention maps of chosen layers
                                              (Romero et al. 2015, arXiv:1412.6550; Zagoruyko and Komodakis
                                              2017, arXiv:1612.03928, equation 2)

Everything is a loss for `fit`; one that changes over time or has parameters is also a hook. Born-again
networks (Furlanello et al. 2018) need nothing new: the teacher has the student's own shape.

Left out: relations between examples, generators in place of data.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.taps import Tap
from compresslab.training import Batch, Hook, Loss, Run, logits

DISTANCES = ("kl", "cross_entropy", "mse")
Answers = Callable[[Batch], torch.Tensor]
Schedule = Callable[[float], float]


# ---- distances -----------------------------------------------------------------------------------
def soft_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0, distance: str = "kl"
) -> torch.Tensor:
    """How far the student's answers are from the teacher's, a mean over the examples.

    Args:
        student: logits [n, classes].
        teacher: logits of the same shape; no gradient flows into them.
        temperature: T > 0; not used by "mse".
        distance: "kl" and "cross_entropy" are multiplied by T^2; "mse" is the mean over logits, halved, so
            that it is what "kl" becomes for large T and centred logits.

    Raises:
        ValueError: for another distance or temperature, no example, or shapes that differ.
    """
    if student.shape != teacher.shape or student.ndim != 2 or len(student) == 0:
        raise ValueError(
            "student and teacher must both be [n, classes] with n of 1 or more, "
            f"got {list(student.shape)} and {list(teacher.shape)}"
        )
    _check_temperature("temperature", temperature)
    teacher = teacher.detach()
    if distance == "mse":
        return F.mse_loss(student, teacher) / 2
    # At high temperatures the divergence is a small difference of large terms: float32 loses it.
    log_student = F.log_softmax(student.double() / temperature, 1)
    log_teacher = F.log_softmax(teacher.double() / temperature, 1)
    if distance == "kl":
        kl = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
        return (temperature**2 * kl).to(student.dtype)
    if distance == "cross_entropy":
        crossed = -(log_teacher.exp() * log_student).sum(1).mean()
        return (temperature**2 * crossed).to(student.dtype)
    raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")


def _check_temperature(name: str, temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"{name} must be above 0 and finite, got {temperature}")


# ---- where the answers come from -----------------------------------------------------------------
def cached(teacher: nn.Module, x: torch.Tensor) -> Answers:
    """The teacher's logits, computed once for every example of the training set (offline).

    `x` must be the images that are trained on, in their order: answers are found by the example's place.
    """
    found = logits(teacher, x)
    return lambda batch: found[batch.index]


def online(teacher: nn.Module) -> Answers:
    """The teacher is asked for every batch, so that batches may be changed at random."""
    teacher.eval()

    @torch.no_grad()
    def answer(batch: Batch) -> torch.Tensor:
        return teacher(batch.x)

    return answer


# ---- temperatures --------------------------------------------------------------------------------
def falling(high: float = 8.0, low: float = 1.0) -> Schedule:
    """High early, low late: geometric from `high` at the start to `low` at the end of training.

    Raises:
        ValueError: for temperatures that are not above 0.
    """
    _check_temperature("high", high)
    _check_temperature("low", low)
    return lambda done: high * (low / high) ** done


# ---- the loss ------------------------------------------------------------------------------------
class Distillation(Hook):
    """alpha * hard + (1 - alpha) * soft, as a loss for `fit`.

    Pass it as `loss`, and among the `hooks` as well if the temperature changes with time.
    """

    def __init__(
        self,
        answers: Answers,
        alpha: float = 0.1,
        temperature: float | Schedule = 4.0,
        distance: str = "kl",
    ) -> None:
        """Args: from `cached` or `online`; the labels' share; T or a schedule of it; see `soft_loss`.

        Raises:
            ValueError: for a share outside 0..1, another distance, or a temperature that is not above 0.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in 0..1, got {alpha}")
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
        self.answers, self.alpha, self.distance = answers, alpha, distance
        if not callable(temperature):
            _check_temperature("temperature", temperature)
        self.constant_or_schedule = temperature
        self.done: float | None = None

    @property
    def temperature(self) -> float:
        """T at this moment of the training.

        Raises:
            ValueError: for a schedule that was not told that training began.
        """
        if not callable(self.constant_or_schedule):
            return self.constant_or_schedule
        if self.done is None:
            raise ValueError("hooks must have this loss, too, so that its temperature can change")
        return self.constant_or_schedule(self.done)

    def before_training(self, run: Run) -> None:
        """Begin at the start of the schedule."""
        self.done = 0.0

    def after_step(self, run: Run) -> None:
        """Move along it."""
        self.done = (run.step + 1) / max(run.steps, 1)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        return self.of_logits(model(batch.x), batch)

    def of_logits(self, student: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The same from logits that are there already. Without labels (alpha = 0) none are looked at."""
        hard = F.cross_entropy(student, batch.y) if self.alpha > 0 else 0.0
        if self.alpha == 1:
            return hard
        soft = soft_loss(student, self.answers(batch), self.temperature, self.distance)
        return self.alpha * hard + (1 - self.alpha) * soft


def smoothed(smoothing: float = 0.1) -> Loss:
    """Label smoothing: the control whose teacher knows nothing (every wrong class is equally likely)."""
    return lambda model, batch: F.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)


# ---- students that teach each other --------------------------------------------------------------
class Cohort(nn.Module):
    """Several students as one module: logits [n, students, classes]. Evaluate `students[i]`, not this."""

    def __init__(self, students: Sequence[nn.Module]) -> None:
        """Args: at least two networks with the same classes."""
        super().__init__()
        if len(students) < 2:
            raise ValueError(f"students must be at least 2, got {len(students)}")
        self.students = nn.ModuleList(students)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Everybody's logits for the same batch."""
        return torch.stack([student(x) for student in self.students], dim=1)


def mutual(temperature: float = 1.0) -> Loss:
    """Deep mutual learning: the labels, and the mean distance to every other student (equation 8)."""

    def loss(cohort: Cohort, batch: Batch) -> torch.Tensor:
        answers = cohort(batch.x).unbind(1)
        total = 0.0
        for i, mine in enumerate(answers):
            others = [a for j, a in enumerate(answers) if j != i]
            soft = sum(soft_loss(mine, other, temperature) for other in others) / len(others)
            total = total + F.cross_entropy(mine, batch.y) + soft
        return total

    return loss


# ---- what is inside ------------------------------------------------------------------------------
def layer_map(student: int, teacher: int, kind: str = "uniform") -> list[int]:
    """Which of the teacher's layers (from 0) each of the student's learns from.

    Args:
        student: layers of the student, at most as many as the teacher's.
        teacher: layers of the teacher.
        kind: "uniform" (the last of each equal part, TinyBERT's), "skip" (the first of each, DistilBERT's
            initialisation), "first" or "last" (the teacher's first or last ones).

    Raises:
        ValueError: for another kind, or more student than teacher layers.
    """
    if not 1 <= student <= teacher:
        raise ValueError(f"student must be 1 to {teacher} layers, got {student}")
    maps = {
        "uniform": [(i + 1) * teacher // student - 1 for i in range(student)],
        "skip": [i * teacher // student for i in range(student)],
        "first": list(range(student)),
        "last": list(range(teacher - student, teacher)),
    }
    if kind not in maps:
        raise ValueError(f"kind must be one of {', '.join(maps)}, got {kind!r}")
    return maps[kind]


def attention_map(features: torch.Tensor) -> torch.Tensor:
    """Where a layer looks: the mean square over channels at every position, of length 1: [n, positions].

    Where there is nothing at all (every feature 0) the map is 0.
    """
    energy = features.square().mean(1).flatten(1)
    return F.normalize(energy, dim=1)


def _states(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(student, teacher)


def _cosine(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def _attention(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    difference = attention_map(student) - attention_map(teacher)
    return difference.square().sum(1).mean()


FEATURES = {"mse": _states, "cosine": _cosine, "attention": _attention}


class Hints(Hook):
    """Distillation plus what chosen layers of both networks have inside.

    Features are [n, c], [n, c, h, w], or states of tokens [n, length, c]. The student's are brought to the
    teacher's width by a learned 1x1 projection where the widths differ (not for "attention", which has no
    channels). Pass it as `loss` and among the `hooks`: the projections join the optimizer there, and are left
    behind after training.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layers: Mapping[str, str],
        distillation: Distillation | None,
        kind: str = "mse",
        weight: float = 1.0,
        keep: Callable[[Batch], torch.Tensor] | None = None,
        cached_on: torch.Tensor | None = None,
    ) -> None:
        """What to compare, and how.

        Args:
            teacher: the network whose features are copied.
            layers: student layer -> teacher layer, dotted names.
            distillation: the loss on logits; None compares features alone (a first stage of training).
            kind: "mse", "cosine" or "attention".
            weight: of the features' distance; the layers' distances are added up.
            keep: for tokens: from a batch to bool [n, length], where tokens are looked at (no padding). Of
                features [n, c, length, length], such as attention scores, pairs of kept tokens count.
            cached_on: the inputs trained on, in their order: the teacher's features for all of them are
                computed once and held in memory; None asks the teacher for every batch.

        Raises:
            ValueError: for another kind, or `keep` with "attention", whose maps are of whole images.
        """
        if kind not in FEATURES:
            raise ValueError(f"kind must be one of {', '.join(FEATURES)}, got {kind!r}")
        if keep is not None and kind == "attention":
            raise ValueError("keep must be None for kind 'attention', which compares whole maps")
        self.teacher, self.layers = teacher.eval(), dict(layers)
        self.distillation, self.kind, self.weight, self.keep = distillation, kind, weight, keep
        self.projections: dict[str, nn.Module] = {}
        self.cache = None if cached_on is None else self._of_teacher(cached_on)

    def before_training(self, run: Run) -> None:
        """Begin with new projections; each joins the optimizer when its widths are first seen."""
        if self.distillation:
            self.distillation.before_training(run)
        self.run, self.projections = run, {}

    def after_step(self, run: Run) -> None:
        """Move along the temperature's schedule."""
        if self.distillation:
            self.distillation.after_step(run)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        with Tap(model, self.layers) as mine:
            answers = model(batch.x)
        loss = self.distillation.of_logits(answers, batch) if self.distillation else 0.0
        if self.cache is None:
            theirs = self._of_teacher(batch.x)
        else:
            theirs = {name: features[batch.index] for name, features in self.cache.items()}
        distance = FEATURES[self.kind]
        for student, teacher in self.layers.items():
            target = _channels_first(theirs[teacher])
            projected = self._projected(student, _channels_first(mine[student]), target)
            if self.keep is not None:
                projected, target = (kept(f, self.keep(batch)) for f in (projected, target))
            loss = loss + self.weight * distance(projected, target)
        return loss

    @torch.no_grad()
    def _of_teacher(self, x: torch.Tensor, batch_size: int = 1000) -> dict[str, torch.Tensor]:
        parts = []
        for part in x.split(batch_size):
            with Tap(self.teacher, self.layers.values()) as found:
                self.teacher(part)
            parts.append(found)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _projected(self, name: str, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if mine.shape[2:] != theirs.shape[2:]:
            raise ValueError(
                f"layers must have features of the same size; {name!r} has {list(mine.shape[2:])}, "
                f"its teacher {list(theirs.shape[2:])}"
            )
        if self.kind == "attention" or mine.shape[1] == theirs.shape[1]:
            return mine
        if name not in self.projections:
            layer = nn.Conv1d(mine.shape[1], theirs.shape[1], 1, bias=False).to(mine)
            self.projections[name] = layer
            group = {k: v for k, v in self.run.optimizer.param_groups[0].items() if k != "params"}
            self.run.optimizer.add_param_group({**group, "params": list(layer.parameters())})
        flat = self.projections[name](mine.flatten(2) if mine.ndim > 2 else mine[:, :, None])
        return flat.reshape(len(mine), theirs.shape[1], *mine.shape[2:])


def _channels_first(features: torch.Tensor) -> torch.Tensor:
    """States of tokens [n, length, c] as [n, c, length]; images as they are."""
    return features.transpose(1, 2) if features.ndim == 3 else features


def kept(features: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Features at tokens that are kept, or at pairs of them: [n, c, length (, length)] -> [tokens, c].

    Raises:
        ValueError: if the mask [n, length] does not fit.
    """
    n, length = keep.shape
    if features.shape[:1] + features.shape[2:] not in ((n, length), (n, length, length)):
        raise ValueError(
            f"keep must have a place for every token of features {list(features.shape)}, "
            f"got {list(keep.shape)}"
        )
    if features.ndim == 4:
        keep = keep[:, :, None] & keep[:, None, :]
    return features.movedim(1, -1)[keep]
