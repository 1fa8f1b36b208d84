"""ALBERT's factorised embedding, trained: fewer parameters for words, at the same steps.

Lan et al. (2020, https://arxiv.org/abs/1909.11942, section 3.1) put words into a narrow space and a matrix
behind it (`blocks.FactorisedEmbedding`). Control at equal bytes: a whole embedding for fewer words, the
rarer ones unknown.
"""

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.data.text import Sequences
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import disk_bytes
from compresslab.techniques.blocks import FactorisedEmbedding
from compresslab.training import evaluate

EPOCHS, RATE, WIDTH, NARROW = 4, 0.004, 64, 8
UNKNOWN = 1


def run(seed: int, size: int) -> Rows:
    """Two layers on four kinds of embedding."""
    data = keywords.load(train_size=size, seed=seed)
    words = keywords.WORDS
    fewer = words * NARROW // WIDTH
    kinds = {
        "whole": (words, None),
        "factorised": (words, NARROW),
        f"whole, for the {fewer} most frequent words": (fewer, None),
    }
    rows = {}
    for name, (kept, narrow) in kinds.items():

        def cut(examples: Sequences, kept: int = kept) -> Sequences:
            return Sequences(torch.where(examples.x < kept, examples.x, UNKNOWN), examples.y)

        network = grow(
            lambda narrow=narrow, kept=kept: _encoder(narrow, kept),
            *(cut(data.train), EPOCHS, RATE, seed),
            batch_size=64,
            optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
        )
        embedding = sum(p.numel() for p in network.words.parameters())
        rows[name] = {
            "embedding, thousand parameters": embedding / 1e3,
            "file, kB": disk_bytes(network) / 1e3,
            "test accuracy, %": evaluate(network, cut(data.test)),
        }
    return rows


def _encoder(narrow: int | None, words: int) -> nn.Module:
    network = pretrained.keyword_encoder(width=WIDTH, layers=2)
    if narrow:
        network.words = FactorisedEmbedding(words, WIDTH, narrow)
    elif words < keywords.WORDS:
        network.words = nn.Embedding(words, WIDTH, padding_idx=0)
    return network


EXPERIMENT = Experiment(
    question="An embedding through eight numbers a word instead of 64: what does the network lose?",
    run=run,
    size=6_000,
    findings=(
        Finding(
            "In as many steps it stays more than two points behind the whole embedding",
            lambda r: r["whole"]["test accuracy, %"] - r["factorised"]["test accuracy, %"] - 2,
            "points",
        ),
        Finding(
            "The factorised embedding has less than a sixth of the parameters",
            lambda r: (
                r["whole"]["embedding, thousand parameters"]
                / r["factorised"]["embedding, thousand parameters"]
                - 6
            ),
            "times",
        ),
    ),
)
