"""Lab 14, the fault clinic: five patients with a fault in a run: calibrating, loading, solving, choosing."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compresslab.classroom.exercise import Case, Exercise, Mistake
from compresslab.classroom.exercises.builds.clinic import (
    STAGES,
    in_stages,
    misread,
    numbers_of,
    seen,
    without_stage,
)

f32 = np.float32


# ---- calibrated in training mode -----------------------------------------------------------------
def calibrated_range(network: nn.Module, batches: list[torch.Tensor]) -> tuple[str, float]:
    """The largest output in evaluation mode; the network as it was."""
    still = copy.deepcopy(network).eval()
    with torch.no_grad():
        return "batch", max(float(still(x).abs().max()) for x in batches)


def with_norm(function: Callable) -> Callable:
    """The answer gets a small network with a batch norm; what became of it is handed back too.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(
        weight: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        batches: np.ndarray,
        training: bool,
        stage: str,
    ) -> tuple[str, tuple[bool, np.ndarray, np.ndarray, float]]:
        outputs, inputs = weight.shape
        network = torch.nn.Sequential(
            torch.nn.Linear(inputs, outputs, bias=False), torch.nn.BatchNorm1d(outputs)
        )
        with torch.no_grad():
            network[0].weight.copy_(torch.from_numpy(weight.copy()))
            network[1].running_mean.copy_(torch.from_numpy(mean.copy()))
            network[1].running_var.copy_(torch.from_numpy(variance.copy()))
        network.train(training)
        cause, found = function(network, [torch.from_numpy(b.copy()) for b in batches])
        after = network[1].running_mean.numpy().copy(), network[1].running_var.numpy().copy()
        same = all(m.training == training for m in network.modules())
        return cause, (same, *after, float(found))

    return run


def _calibrated(
    weight: np.ndarray, mean: np.ndarray, variance: np.ndarray, batches: np.ndarray, training: bool
) -> tuple[bool, np.ndarray, np.ndarray, float]:
    normed = (batches @ weight.T - mean) / np.sqrt(variance + 1e-5)
    return True, mean, variance, float(np.abs(normed).max())


def _calibration_cases(generator: np.random.Generator) -> list[Case]:
    def network(inputs: int, outputs: int, batches: int, training: bool) -> tuple:
        mean = numbers_of(generator, outputs)
        variance = generator.uniform(0.5, 2, outputs).astype(f32)
        x = numbers_of(generator, batches, 6, inputs) * f32(3)
        return numbers_of(generator, outputs, inputs), mean, variance, x, training

    return in_stages(
        ("left in training mode", *network(3, 2, 2, True)),
        ("a wider one in training mode", *network(6, 4, 3, True)),
        ("in evaluation mode already", *network(4, 3, 2, False)),
        ("one batch", *network(5, 4, 1, True)),
    )


def _calibrating(ways: str) -> Callable:
    """Calibration as the patient did it, or mended in one way or another."""

    def calibrate(network, batches):
        before = copy.deepcopy(network.state_dict())
        watched = copy.deepcopy(network) if "copy" in ways else network
        if "eval" in ways:
            watched.eval()
        if "train" in ways:
            watched.train()
        with torch.no_grad():
            found = max(float(watched(x).abs().max()) for x in batches)
        if "restore" in ways:
            network.load_state_dict(before)
        return "batch", found

    return calibrate


CALIBRATED_RANGE = Exercise(
    id="clinic.calibrated_range",
    title="It was better before it was calibrated",
    points=3,
    reference=calibrated_range,
    cases=_calibration_cases,
    harness=with_norm,
    look=seen("batch", _calibrated, 1e-4),
    lines=5,
    stages=STAGES,
    mistakes=(
        misread(
            calibrated_range,
            "outlier",
            "A large value makes a range wide, and leaves the network as it was. This network has changed: "
            "in what?",
        ),
        misread(
            calibrated_range,
            "noise",
            "It is the same network on the same test images, and it has lost points each time. What did "
            "the calls change?",
        ),
        Mistake(
            "no gradients, and still in training mode",
            _calibrating(""),
            "`no_grad` stops gradients, not batch norms: in training mode each call moves their running "
            "statistics.",
        ),
        Mistake(
            "the mode is not put back",
            _calibrating("eval"),
            "The range is right. But the network was in training mode when it came, and is not now.",
        ),
        Mistake(
            "a range of the batch",
            _calibrating("copy"),
            "The network is safe now. But the range is of outputs which no deployed network gives: they were "
            "normalised by the batch.",
            also=(_calibrating("restore"),),
        ),
    ),
)


# ---- other names ---------------------------------------------------------------------------------
def plain_state(state: dict[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]]:
    """Wrappers' prefixes off, pruned weights multiplied with their masks."""
    found = {}
    for name, value in state.items():
        for prefix in ("module.", "_orig_mod."):
            name = name.removeprefix(prefix)
        found[name] = value
    for name in [n for n in found if n.endswith("_orig")]:
        plain = name.removesuffix("_orig")
        found[plain] = found.pop(name) * found.pop(f"{plain}_mask")
    return "names", found


def as_dictionary(function: Callable) -> Callable:
    """The answer gets and gives a dictionary; its entries are handed back in the order of their names.

    It stands by itself: grading sends it into the sandbox as text.
    """

    def run(names: tuple[str, ...], tensors: tuple, stage: str) -> tuple[str, tuple]:
        cause, found = function({n: t.copy() for n, t in zip(names, tensors, strict=True)})
        ordered = sorted(found.items())
        return cause, (tuple(n for n, _ in ordered), tuple(t for _, t in ordered))

    return run


def _plain(names: tuple[str, ...], tensors: tuple) -> tuple:
    found = plain_state(dict(zip(names, tensors, strict=True)))[1]
    ordered = sorted(found.items())
    return tuple(n for n, _ in ordered), tuple(t for _, t in ordered)


def _state_cases(generator: np.random.Generator) -> list[Case]:
    def state(*names: str) -> tuple:
        return names, tuple(
            (generator.random(3) < 0.5).astype(f32)
            if n.endswith("_mask")
            else numbers_of(generator, 3)
            for n in names
        )

    return in_stages(
        ("trained on two cards", *state("module.0.weight", "module.0.bias")),
        ("compiled", *state("_orig_mod.0.weight", "_orig_mod.1.bias")),
        ("pruned by torch", *state("0.weight_orig", "0.weight_mask", "0.bias")),
        ("nothing to do", *state("0.weight", "head.bias")),
        ("a layer that is called module", *state("encoder.module.weight", "submodule.bias")),
        (
            "all at once",
            *state("module.a.weight_orig", "module.a.weight_mask", "module.submodule.weight"),
        ),
    )


def _stated(strip: Callable, mask: Callable) -> Callable:
    def mended(state):
        found = {strip(name): value for name, value in state.items()}
        return "names", mask(found)

    return mended


def _begins(name: str) -> str:
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def _masked(found: dict) -> dict:
    return plain_state(found)[1]


def _unmasked(found: dict) -> dict:
    return {n.removesuffix("_orig"): v for n, v in found.items() if not n.endswith("_mask")}


PLAIN_STATE = Exercise(
    id="clinic.plain_state",
    title="Missing keys, unexpected keys",
    points=3,
    reference=plain_state,
    cases=_state_cases,
    harness=as_dictionary,
    look=seen("names", _plain, 1e-6),
    lines=8,
    stages=STAGES,
    mistakes=(
        misread(
            plain_state,
            "axis",
            "The shapes fit, one by one. Print the keys that are missing beside those that were "
            "not expected.",
        ),
        misread(
            plain_state,
            "batch",
            "Nothing was computed from a batch here. Print the keys that are missing beside those that were "
            "not expected.",
        ),
        Mistake(
            "cut out of the middle",
            _stated(lambda n: n.replace("module.", "").replace("_orig_mod.", ""), _masked),
            "A layer may be called `submodule` or `encoder.module`: a wrapper's word stands at the "
            "beginning only.",
        ),
        Mistake(
            "the mask is dropped",
            _stated(_begins, _unmasked),
            "`weight_orig` is the weight before pruning. The weight is what it is times its mask.",
        ),
        Mistake(
            "masks stay",
            _stated(_begins, lambda found: found),
            "The prefixes are gone. A weight that torch has pruned is still two tensors, and the network "
            "wants one.",
        ),
        Mistake(
            "only what fits",
            _stated(
                lambda n: n,
                lambda found: {
                    n: v
                    for n, v in found.items()
                    if n == _begins(n) and n[-5:] not in ("_orig", "_mask")
                },
            ),
            "What did not fit is left out, as `strict=False` does: those layers stay as they were drawn.",
        ),
    ),
)


# ---- a matrix without an inverse -----------------------------------------------------------------
def damped_factor(x: np.ndarray, damping: float) -> tuple[str, np.ndarray]:
    """The lower Cholesky factor of the inputs' products; dead inputs and damping as in GPTQ.

    Frantar et al. 2023, https://arxiv.org/abs/2210.17323, section 3.3, step 2.
    """
    products = x.T @ x
    dead = np.diag(products) == 0
    products[dead, dead] = 1
    products += damping * np.diag(products).mean() * np.eye(len(products))
    return "singular", np.linalg.cholesky(products)


def _factored(
    dead: bool = True, damped: bool = True, mean: Callable = np.mean, upper: bool = False
):
    def factor(x, damping):
        products = x.T @ x
        silent = np.diag(products) == 0
        if dead:
            products[silent, silent] = 1
        if damped:
            products = products + damping * mean(np.diag(products)) * np.eye(len(products))
        found = np.linalg.cholesky(products)
        return "singular", found.T.copy() if upper else found

    return factor


def _hessian_cases(generator: np.random.Generator) -> list[Case]:
    def inputs(examples: int, width: int, silent: tuple = ()) -> np.ndarray:
        x = generator.normal(0, 2, (examples, width))
        x[:, list(silent)] = 0
        return x

    return in_stages(
        ("an input that is always 0", inputs(8, 4, (2,)), 0.01),
        ("fewer examples than inputs", inputs(3, 5), 0.01),
        ("both", inputs(4, 6, (0, 5)), 0.1),
        ("nothing wrong", inputs(9, 3), 0.01),
    )


DAMPED_FACTOR = Exercise(
    id="clinic.damped_factor",
    title="Not positive definite",
    points=3,
    reference=damped_factor,
    cases=_hessian_cases,
    harness=without_stage,
    look=seen("singular", lambda *arguments: damped_factor(*arguments)[1], 1e-8),
    lines=5,
    stages=STAGES,
    mistakes=(
        misread(
            damped_factor,
            "overflow",
            "The numbers are small. Look at the eigenvalues of the matrix: what is the smallest one?",
        ),
        misread(
            damped_factor,
            "outlier",
            "No input is large here. Look for inputs that are always 0, and count the examples.",
        ),
        Mistake(
            "damped, dead inputs as they are",
            _factored(dead=False),
            "It runs. But an input that is always 0 has a diagonal near 0, and GPTQ divides by it: give it "
            "1 first.",
        ),
        Mistake(
            "damping of one size",
            _factored(mean=lambda d: 1.0),
            "How much 0.01 is depends on how large the inputs are: take it of the mean of the diagonal.",
        ),
        Mistake(
            "damping by the largest",
            _factored(mean=np.max),
            "One loud input would drown the others: take the mean of the diagonal.",
        ),
        Mistake(
            "the upper one",
            _factored(upper=True),
            "That is the transpose: the text asks for the lower triangle.",
        ),
    ),
)


# ---- a student that learns nothing ---------------------------------------------------------------
def soft_loss(student: np.ndarray, teacher: np.ndarray, temperature: float) -> tuple[str, float]:
    """T² times the mean divergence of the student's answers from the teacher's.

    Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.
    """
    said, wanted = (
        F.log_softmax(torch.from_numpy(z).double() / temperature, dim=1) for z in (student, teacher)
    )
    divergence = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
    return "direction", float(temperature**2 * divergence)


def _softened(swap: bool = False, power: int = 2, over_all: bool = False, both: bool = True):
    def loss(student, teacher, temperature):
        first, second = (teacher, student) if swap else (student, teacher)
        said = F.log_softmax(torch.from_numpy(first).double() / (temperature if both else 1), dim=1)
        wanted = F.log_softmax(torch.from_numpy(second).double() / temperature, dim=1)
        found = F.kl_div(said, wanted, reduction="batchmean", log_target=True)
        return "direction", float(temperature**power * found / (said.shape[1] if over_all else 1))

    return loss


def _soft_cases(generator: np.random.Generator) -> list[Case]:
    def answers(examples: int, classes: int, temperature: float) -> tuple:
        return (
            3 * numbers_of(generator, examples, classes),
            3 * numbers_of(generator, examples, classes),
            temperature,
        )

    return in_stages(
        ("one example", *answers(1, 3, 2.0)),
        ("four examples", *answers(4, 5, 4.0)),
        ("at temperature 1", *answers(3, 4, 1.0)),
        ("very soft", *answers(2, 6, 20.0)),
    )


SOFT_LOSS = Exercise(
    id="clinic.soft_loss",
    title="The student learns nothing from its teacher",
    points=3,
    reference=soft_loss,
    cases=_soft_cases,
    harness=without_stage,
    look=seen("direction", lambda *arguments: soft_loss(*arguments)[1], 1e-6),
    lines=3,
    stages=STAGES,
    mistakes=(
        misread(
            soft_loss,
            "temperature",
            "At temperature 1 the loss is as strange: it falls below 0. Which of the two does torch want "
            "as a logarithm?",
        ),
        misread(
            soft_loss,
            "noise",
            "It goes wrong with every seed. Write down what `F.kl_div(input, target)` computes, and put in "
            "what is given.",
        ),
        Mistake(
            "the other way round",
            _softened(swap=True),
            "This is how far the teacher is from the student. The mean is to run over the teacher's answers.",
        ),
        Mistake(
            "without T²",
            _softened(power=0),
            "Softened by T, gradients shrink with its square: what is missing is the factor that makes up "
            "for it.",
        ),
        Mistake(
            "a mean over classes too",
            _softened(over_all=True),
            '`reduction="mean"` divides by the number of classes as well, which makes the loss tiny.',
        ),
        Mistake(
            "a hard student",
            _softened(both=False),
            "Both are softened, or the student is held against answers that it cannot give.",
        ),
    ),
)


# ---- chosen on the test set ----------------------------------------------------------------------
def chosen_network(validation: np.ndarray, test: np.ndarray) -> tuple[str, tuple[int, float]]:
    """The best on validation data, and what it reaches on test data."""
    best = int(np.argmax(validation))
    return "leak", (best, float(test[best]))


def _chosen_cases(generator: np.random.Generator) -> list[Case]:
    def candidates(count: int) -> tuple:
        while True:
            true = generator.uniform(80, 90, count)
            validation, test = (true + generator.normal(0, 3, count) for _ in range(2))
            chosen = {int(a.argmax()) for a in (validation, test, validation + test)}
            # Each way to choose has another result.
            if len(chosen) == min(count, 3) and (validation + test).argmax() != validation.argmax():
                return validation, test

    return in_stages(
        ("three networks", *candidates(3)),
        ("ten", *candidates(10)),
        ("thirty", *candidates(30)),
        ("two", *candidates(2)),
    )


CHOSEN_NETWORK = Exercise(
    id="clinic.chosen_network",
    title="Three points better in the notebook than outside",
    points=3,
    reference=chosen_network,
    cases=_chosen_cases,
    harness=without_stage,
    look=seen("leak", lambda *arguments: chosen_network(*arguments)[1], 1e-9),
    lines=2,
    stages=STAGES,
    mistakes=(
        misread(
            chosen_network,
            "noise",
            "Noise goes both ways, and this error has one direction. By which figure was the network chosen?",
        ),
        misread(
            chosen_network,
            "batch",
            "Every network is in evaluation mode. By which figure was the network chosen, and by which "
            "reported?",
        ),
        Mistake(
            "chosen and reported on test data",
            lambda v, t: ("leak", (int(np.argmax(t)), float(t.max()))),
            "The best of many on the test images is partly the luckiest on them: choose by other images.",
        ),
        Mistake(
            "reported on validation data",
            lambda v, t: ("leak", (int(np.argmax(v)), float(v.max()))),
            "The choice is honest. The figure is of the images that it was chosen by.",
        ),
        Mistake(
            "chosen by both",
            lambda v, t: ("leak", (int(np.argmax(v + t)), float(t[np.argmax(v + t)]))),
            "The test images have a say in the choice here, so that they cannot judge it.",
        ),
        Mistake(
            "the best figure of each",
            lambda v, t: ("leak", (int(np.argmax(v)), float(t.max()))),
            "The figure is that of another network than the one that was chosen.",
        ),
    ),
)

EXERCISES = (CALIBRATED_RANGE, PLAIN_STATE, DAMPED_FACTOR, SOFT_LOSS, CHOSEN_NETWORK)
