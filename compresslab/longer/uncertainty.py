"""FastBERT's assumption, tested: the lower an answer's uncertainty, the more often it is right.

Liu et al. (2020, section 4.3) let an example leave early where the entropy of the answer is low. That
pays if low entropy means right. The test examples are sorted by their uncertainty at an exit and cut into
tenths; the assumption says that accuracy falls from tenth to tenth, at every exit.

The exits learn the last exit's answers by KL(exit || last), the direction of FastBERT's equation 6: the
exit's distribution comes first, unlike Hinton's.
"""

import torch
import torch.nn.functional as F

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.techniques import early_exit
from compresslab.training import Batch, logits

EPOCHS, RATE, TENTHS = 4, 0.004, 10
EXITS = range(6)


def run(seed: int, size: int) -> Rows:
    """Exits trained by both divergences: accuracy of each tenth, and how well uncertainty sorts."""
    data = keywords.load(train_size=size, seed=seed)
    rows = {}
    for name, loss in (
        ("", early_exit.self_distillation),
        (", FastBERT's divergence", exit_first),
    ):
        network = grow(
            lambda: early_exit.EarlyExit(pretrained.keyword_teacher()),
            *(data.train, EPOCHS, RATE, seed),
            batch_size=64,
            loss=loss,
            optimizer=lambda n: torch.optim.AdamW(
                [p for p in n.parameters() if p.requires_grad], RATE
            ),
        )
        answers = logits(network, data.test.x)
        for place in EXITS:
            doubt = early_exit.uncertainty(answers[:, place])
            right = (answers[:, place].argmax(1) == data.test.y).double()
            tenths = [float(part.mean()) for part in right[doubt.argsort()].chunk(TENTHS)]
            rows[f"exit {place + 1}{name}"] = {
                "accuracy, %": 100 * float(right.mean()),
                "surest tenth, %": 100 * tenths[0],
                "middle (tenths 5, 6), %": 50 * (tenths[4] + tenths[5]),
                "least sure tenth, %": 100 * tenths[-1],
                "tenths in order, %": 100 * in_order(tenths),
                "sorted, %": 100 * sorted_share(doubt, right),
            }
    return rows


def in_order(tenths: list[float]) -> float:
    """Of all pairs of tenths, the fraction whose surer one is right at least as often: 1 if it only falls."""
    pairs = [(one, other) for i, one in enumerate(tenths) for other in tenths[i + 1 :]]
    return sum(one >= other for one, other in pairs) / len(pairs)


def sorted_share(doubt: torch.Tensor, right: torch.Tensor) -> float:
    """Of pairs of a right and a wrong answer, how many have the right one surer: the area under the ROC."""
    order = doubt.argsort()
    ranks = torch.empty(len(doubt), dtype=torch.float64)
    ranks[order] = torch.arange(1, len(doubt) + 1, dtype=torch.float64)
    wrong = int((right == 0).sum())
    pairs = wrong * (len(right) - wrong)
    if pairs == 0:
        return 0.5
    return float((ranks[right == 0].sum() - wrong * (wrong + 1) / 2) / pairs)


def exit_first(model: early_exit.EarlyExit, batch: Batch) -> torch.Tensor:
    """KL(exit || last), as FastBERT has it, summed over the exits."""
    found = F.log_softmax(model(batch.x), 2)
    last = found[:, -1].detach()
    return sum(
        F.kl_div(last, found[:, i], reduction="batchmean", log_target=True)
        for i in range(found.shape[1] - 1)
    )


EXPERIMENT = Experiment(
    question="Is an answer right the more often, the surer the network is of it?",
    run=run,
    size=3_000,
    findings=(
        Finding(
            "At every exit the surest tenth is right more often than the middle",
            lambda r: min(
                r[f"exit {i + 1}"]["surest tenth, %"]
                - r[f"exit {i + 1}"]["middle (tenths 5, 6), %"]
                for i in EXITS
            ),
            "points",
        ),
        Finding(
            "And the middle more often than the least sure tenth, by more than 20 points",
            lambda r: (
                min(
                    r[f"exit {i + 1}"]["middle (tenths 5, 6), %"]
                    - r[f"exit {i + 1}"]["least sure tenth, %"]
                    for i in EXITS
                )
                - 20
            ),
            "points",
        ),
        Finding(
            "At every exit more than nine of ten pairs of tenths have the surer one right at least as often",
            lambda r: min(r[f"exit {i + 1}"]["tenths in order, %"] for i in EXITS) - 90,
            "% of the pairs",
        ),
        Finding(
            "At every exit, of a right and a wrong answer the right one is the surer in more "
            "than three quarters of the pairs",
            lambda r: min(r[f"exit {i + 1}"]["sorted, %"] for i in EXITS) - 75,
            "points",
        ),
    ),
    note=(
        "Findings are of the exits that learn in Hinton's direction. Sorted: pairs of a right and a wrong "
        "answer in which the right one is surer (50 % by chance)."
    ),
)
