"""An LSTM and a GRU on int8 products, ours beside torch's: file, answers, and the time of a batch.

An article quantizes a network's linear and recurrent layers at once, by torch's `quantize_dynamic` with
`{nn.Linear, nn.LSTM}`. Ours writes a recurrent layer out in its linear ones and runs their products with
inputs and states on our kernels; gates and states stay in floats in both. A recurrent layer's steps wait for
one another, so that each of its products is a small one.
"""

import io

import torch
from torch import nn

from compresslab.data import keywords
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.measure import disk_bytes, race_networks
from compresslab.models import BiLSTM
from compresslab.runtime import peers
from compresslab.runtime.dynamic import convert_dynamic
from compresslab.training import evaluate

KINDS = ("LSTM", "GRU")
EPOCHS, RATE, WIDTH, HIDDEN, BATCH = 4, 0.004, 48, 64, 64


def run(seed: int, size: int) -> Rows:
    """Both kinds of recurrent layers, each in floats, in our int8 and in torch's."""
    data = keywords.load(train_size=size, seed=seed)
    rows = {}
    for kind, make in (("LSTM", with_lstm), ("GRU", with_gru)):
        network = grow(
            make,
            *(data.train, EPOCHS, RATE, seed),
            batch_size=64,
            optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
        )
        forms = {
            "floats": network,
            "int8, ours": convert_dynamic(network),
            "int8, torch": peers.torch_dynamic(network),
        }
        took = race_networks(forms, data.test.x[:BATCH])
        for name, form in forms.items():
            rows[f"{kind}, {name}"] = {
                "file, kB": _bytes(form, name) / 1e3,
                "test accuracy, %": evaluate(form, data.test),
                f"ms, batch {BATCH}": 1e3 * took[name],
            }
    return rows


def with_lstm() -> nn.Module:
    """A reader of keywords with an LSTM from each end."""
    return BiLSTM(keywords.WORDS, len(keywords.CLASSES), WIDTH, HIDDEN, keywords.BEFORE)


def with_gru() -> nn.Module:
    """The same with a GRU from each end."""
    network = with_lstm()
    network.lstm = nn.GRU(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
    return network


def _bytes(network: nn.Module, name: str) -> int:
    if name != "int8, torch":
        return disk_bytes(network)
    file = io.BytesIO()  # torch's packed weights are no tensors, so they have its own format
    torch.save(network.state_dict(), file)
    return file.tell()


def _lost(rows: Rows, name: str) -> float:
    return max(
        rows[f"{kind}, floats"]["test accuracy, %"] - rows[f"{kind}, {name}"]["test accuracy, %"]
        for kind in KINDS
    )


def _times(rows: Rows, kind: str, slow: str, fast: str) -> float:
    time = f"ms, batch {BATCH}"
    return rows[f"{kind}, {slow}"][time] / rows[f"{kind}, {fast}"][time]


EXPERIMENT = Experiment(
    question="LSTM and GRU in eight bits without training: what is lost, and is it faster?",
    run=run,
    size=4_000,
    findings=(
        Finding(
            "Neither ours nor torch's loses half a point",
            lambda r: 0.5 - max(_lost(r, "int8, ours"), _lost(r, "int8, torch")),
            "points",
        ),
        Finding(
            "Our file is at least a quarter smaller than that of the floats, whose words' vectors it keeps",
            lambda r: (
                0.75
                - max(
                    r[f"{kind}, int8, ours"]["file, kB"] / r[f"{kind}, floats"]["file, kB"]
                    for kind in KINDS
                )
            ),
            "of the file",
        ),
        Finding(
            "Torch's int8 is faster than ours, which Python calls step by step",
            lambda r: min(_times(r, kind, "int8, ours", "int8, torch") for kind in KINDS) - 1,
            "times",
        ),
        Finding(
            "At this width neither makes the LSTM faster than floats: a step's products are small",
            lambda r: min(_times(r, "LSTM", f"int8, {w}", "floats") for w in ("ours", "torch")) - 1,
            "times",
        ),
    ),
    note=f"One thread, {BATCH} sequences at once, states of {HIDDEN} numbers from either end.",
    digits=2,
)
