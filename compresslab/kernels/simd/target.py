"""The instruction set that kernels are compiled for."""

import llvmlite.binding as llvm
from numba import config


def target_has(feature: str) -> bool:
    """Whether the machine that Numba compiles for has an LLVM feature such as ``"avx512vnni"``."""
    if config.CPU_FEATURES is not None:
        return f"+{feature}" in config.CPU_FEATURES.split(",")
    if config.CPU_NAME not in (None, "host", llvm.get_host_cpu_name()):
        return False
    return bool(llvm.get_host_cpu_features().get(feature, False))


def instruction_set() -> str:
    """The instruction set that decides our kernels' speed, as benchmarks state it."""
    if target_has("avx512f"):
        extras = {"avx512vnni": "VNNI", "avx512vpopcntdq": "VPOPCNTDQ", "amx-int8": "AMX"}
        return " ".join(["AVX-512", *(name for bit, name in extras.items() if target_has(bit))])
    if target_has("avx2"):
        return "AVX2 VNNI" if target_has("avxvnni") else "AVX2"
    for feature, name in {"sse4.2": "SSE4.2", "neon": "NEON"}.items():
        if target_has(feature):
            return name
    return "baseline"
