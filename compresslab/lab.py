"""What every lab begins with, in one place: data, baselines, seeds, claims, checks, measurements, tables.

    from compresslab.lab import Table, check, claim, load, trained, use_style

A lab imports from here what it uses in passing, and from its own home what it takes apart. Nothing is defined
here; whoever compresses a network of their own needs `import compresslab as cl`, not this.
"""

from compresslab import models
from compresslab.baselines import trained
from compresslab.claims import agreement, claim
from compresslab.classroom import adopt, check, explore, predict
from compresslab.data import Examples, load
from compresslab.experiment import (
    accuracy,
    begin,
    built,
    fit_all,
    mean_and_sd,
    side_by_side,
    usable_cores,
)
from compresslab.kernels.simd import instruction_set
from compresslab.measure import (
    count_layers,
    disk_bytes,
    fair_time,
    machine_limits,
    memory_bytes,
    race,
    race_networks,
    time_call,
)
from compresslab.notice import tell
from compresslab.progress_bar import track
from compresslab.report import (
    COLOURS,
    MARKERS,
    Table,
    compared,
    in_bytes,
    in_units,
    mean_sd,
    pareto,
    pareto_front,
    plain_log_ticks,
    table,
    use_style,
)
from compresslab.training import (
    Batch,
    Hook,
    TrainingDiverged,
    cross_entropy,
    evaluate,
    fit,
    logits,
    seed_everything,
)

__all__ = [
    "COLOURS",
    "MARKERS",
    "Batch",
    "Examples",
    "Hook",
    "Table",
    "TrainingDiverged",
    "accuracy",
    "adopt",
    "agreement",
    "begin",
    "built",
    "check",
    "claim",
    "compared",
    "count_layers",
    "cross_entropy",
    "disk_bytes",
    "evaluate",
    "explore",
    "fair_time",
    "fit",
    "fit_all",
    "in_bytes",
    "in_units",
    "instruction_set",
    "load",
    "logits",
    "machine_limits",
    "mean_and_sd",
    "mean_sd",
    "memory_bytes",
    "models",
    "pareto",
    "pareto_front",
    "plain_log_ticks",
    "predict",
    "race",
    "race_networks",
    "seed_everything",
    "side_by_side",
    "table",
    "tell",
    "time_call",
    "track",
    "trained",
    "usable_cores",
    "use_style",
]
