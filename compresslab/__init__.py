"""Make neural networks smaller and faster, and see that they are.

    import compresslab as cl

    data = cl.data.load()
    network = cl.fit(cl.models.VGGLike(data), data)
    small = cl.compress(network, [cl.Prune(0.85), cl.Quantize(4)], data)
    cl.save(small, "small.safetensors")
    print(cl.table(cl.measure(network, data), cl.measure(cl.load("small.safetensors"), data)))

    inspect             what can be done with a network, and every obstacle at once, before anything is
    compress            a list of stages in, a network that runs out
    the stages          Prune, CutChannels, LowRank, Share, Quantize, Distill, Binary, Weights, Dynamic
    convert             what one technique left -> what runs
    save, load          one file for whatever was done to a network
    measure, table      bytes, zeros, operations, milliseconds, accuracy
    debug               which layer is to blame for what was lost
    fit, evaluate       train a copy; accuracy in per cent
    claim               a finding with its margin

Names are looked up when they are used, so `import compresslab` takes milliseconds and imports no torch.
Behind the door imports run one way: kernels, numerics, data, models, training, network, techniques, runtime,
measure, report, stages, advisor, classroom.
"""

import importlib
import os

# Numba's OpenMP threads and torch's are two pools. Waiting threads that spin steal the other pool's
# cores (measured 4x slower when the two alternate), so they must sleep. Read when OpenMP starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_STAGES = (
    *("Prune", "CutChannels", "LowRank", "Share", "Quantize", "Distill", "Binary", "Weights"),
    "Dynamic",
)
_MODULES = ("data", "measure", "models")
_HOMES = {
    "claim": "claims",
    "compress": "stages",
    "convert": "runtime.convert",
    "debug": "debugging",
    "evaluate": "training",
    "fit": "stages",
    "inspect": "inspection",
    "load": "runtime.files",
    "save": "runtime.files",
    "table": "report",
    **dict.fromkeys(_STAGES, "stages"),
}

__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> object:
    """A name of the front door (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Every name of the front door."""
    return sorted([*globals(), *__all__])
