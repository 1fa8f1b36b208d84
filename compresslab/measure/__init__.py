"""What a network costs, measured: bytes, parameters, MACs, milliseconds, picojoules, accuracy.

counts        parameters and multiply-accumulates of every layer
sizes         weights, file, memory, what one image needs
clocks        wall-clock time of calls, races between networks
limits        what the machine reaches: the roofline
energy        picojoules by published figures
joules        joules by the processor's own counters
measurement   all of it as one row

The module itself can be called: `measure(network, data)` is `measure.measure(network, data)`.
"""

import sys
import types

from compresslab.measure.clocks import (
    Timing,
    call_times,
    fair_time,
    latency,
    race,
    race_networks,
    time_call,
)
from compresslab.measure.counts import (
    LayerCount,
    conv2d_macs,
    count_layers,
    layer_macs,
    linear_macs,
)
from compresslab.measure.energy import PICOJOULES, energy_microjoules, mac_picojoules
from compresslab.measure.joules import joules
from compresslab.measure.limits import MachineLimits, machine_limits, roofline
from compresslab.measure.measurement import Measurement, deployed, measure
from compresslab.measure.sizes import (
    disk_bytes,
    memory_bytes,
    nonzero_parameters,
    numbers,
    working_bytes,
)

__all__ = [
    "PICOJOULES",
    "LayerCount",
    "MachineLimits",
    "Measurement",
    "Timing",
    "call_times",
    "conv2d_macs",
    "count_layers",
    "deployed",
    "disk_bytes",
    "energy_microjoules",
    "fair_time",
    "joules",
    "latency",
    "layer_macs",
    "linear_macs",
    "mac_picojoules",
    "machine_limits",
    "measure",
    "memory_bytes",
    "nonzero_parameters",
    "numbers",
    "race",
    "race_networks",
    "roofline",
    "time_call",
    "working_bytes",
]


class _Measure(types.ModuleType):
    """This module, which stands in the front door as the verb, too."""

    def __call__(self, *arguments: object, **named: object) -> Measurement:
        """As `measurement.measure`."""
        return measure(*arguments, **named)


sys.modules[__name__].__class__ = _Measure
