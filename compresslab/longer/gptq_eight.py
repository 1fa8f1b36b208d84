"""GPTQ at 8 bits and at 4, and its seconds: where is compensating worth the time?

Rounding to nearest needs no data; GPTQ (Frantar et al. 2023) needs passages and a Hessian a layer, and takes
longer. The language model is the package's own; calibration and test passages are drawn anew for each seed.
"""

import time

from compresslab import pretrained
from compresslab.data import corpus
from compresslab.gpt import perplexity
from compresslab.longer.experiment import Experiment, Finding, Rows
from compresslab.techniques import gptq, weight_only
from compresslab.techniques.weight_only import WeightConfig

BITS, GROUP = (8, 4, 3), 64


def run(seed: int, size: int) -> Rows:
    """Both ways at each width; `size` is the number of calibration tokens."""
    model = pretrained.language_model()
    calibration = corpus.load("python", "train", 400_000).some(max(1, size // corpus.LENGTH), seed)
    test = corpus.load("python", "test", 60_000).some(max(2, min(size // 40, 100)), seed)
    base = perplexity(model, test)
    inputs = list(calibration.x.split(16))
    rows = {"floats": {"perplexity": base, "more, %": 0.0, "seconds": 0.0}}
    for bits in BITS:
        config = WeightConfig(bits, GROUP)
        for name, quantize in (
            ("nearest", lambda config=config: weight_only.quantize(model, config)),
            ("GPTQ", lambda config=config: gptq.quantize(model, inputs, config)),
        ):
            started = time.process_time()
            codes = quantize()
            took = time.process_time() - started
            reached = perplexity(codes.model, test)
            rows[f"{bits} bits, {name}"] = {
                "perplexity": reached,
                "more, %": 100 * (reached / base - 1),
                "seconds": took,
            }
    return rows


EXPERIMENT = Experiment(
    question="GPTQ at 8 bits: is there anything left to compensate, and how long does it take?",
    run=run,
    size=4_096,
    findings=(
        Finding(
            "At 8 bits both are within a half per cent of the floats",
            lambda r: 0.5 - max(abs(r[f"8 bits, {n}"]["more, %"]) for n in ("nearest", "GPTQ")),
            "%",
        ),
        Finding(
            "At 3 bits GPTQ loses less than two thirds of what rounding to nearest loses",
            lambda r: 2 / 3 - r["3 bits, GPTQ"]["more, %"] / r["3 bits, nearest"]["more, %"],
            "times",
        ),
    ),
    digits=2,
)
