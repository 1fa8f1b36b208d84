"""A network's C file on a Cortex-M3 that is emulated: its bytes, its answers, its instructions.

    sizes(source)           flash and RAM of the compiled file, by its sections
    run(source, images)     the logits of some images, and instructions for each

The board is ARM's MPS2-AN385 in QEMU; the images are part of the program, the logits come back as bits by
semihosting. QEMU counts instructions instead of time (`-icount`): one takes a nanosecond of the board's time,
so that its 25 MHz timer advances once every 40. A real Cortex-M3 needs one to two clocks an instruction and
more for loads from flash, so instructions compare networks; they are no milliseconds.

Needs `gcc-arm-none-eabi` with its C library and `qemu-system-arm`, as Debian and Ubuntu call them. Left out:
other cores, and DSP or vector instructions, which CMSIS-NN uses where there are some.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compresslab.runtime.c_source import Source
from compresslab.runtime.c_text import number

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
FLAGS = ("-mcpu=cortex-m3", "-mthumb", "-std=c99", "-O2", "-ffunction-sections")
HERE = Path(__file__).parent
INSTRUCTIONS_A_TICK = 40
TICKS_A_WRAP = 2**24
MOST_BYTES = 3_500_000
"""Of the images, which share the board's 4 MB with the network."""
SECONDS = 300
ROW = re.compile(r"[0-9a-f]{8}( [0-9a-f]{8})+")


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in (COMPILER, SIZE, EMULATOR) if shutil.which(name) is None]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a compiled network: constants and code in flash, activations in RAM.

    Without its stack, and without the compiler's routines for floats, which a processor that has no
    instructions for them needs besides.
    """

    constants: int
    code: int
    ram: int

    @property
    def flash(self) -> int:
        """Constants and code."""
        return self.constants + self.code


@dataclass(frozen=True)
class Emulated:
    """What came out: logits float32 [images, outputs], and instructions of each image."""

    logits: np.ndarray
    instructions: np.ndarray


def sizes(source: Source) -> Sizes:
    """Flash and RAM of a network's file, compiled for a Cortex-M3, from the object file's sections.

    Raises:
        FileNotFoundError: if the compiler is not installed, with what to install.
        RuntimeError: if it fails.
    """
    _need(COMPILER, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "network.c").write_text(source.text, encoding="ascii")
        _call([COMPILER, *FLAGS, "-c", "network.c", "-o", "network.o"], place)
        told = _call([SIZE, "-A", "network.o"], place)
    found = {".text": 0, ".rodata": 0, ".data": 0, ".bss": 0}
    for row in told.splitlines():
        parts = row.split()
        for name in found:
            if len(parts) == 3 and parts[0].startswith(name):
                found[name] += int(parts[1])
    return Sizes(found[".rodata"] + found[".data"], found[".text"], found[".data"] + found[".bss"])


def run(source: Source, images: np.ndarray) -> Emulated:
    """Classify images on the emulated board.

    Args:
        source: from `c_source.to_c`.
        images: float32 [n, ...], as the network takes them; at most 3.5 MB of them.

    Raises:
        FileNotFoundError: if the compiler or the emulator is not installed, with what to install.
        ValueError: for no images, another dtype, or numbers that are not finite.
        RuntimeError: if one of them fails.
    """
    _need(COMPILER, EMULATOR)
    if not isinstance(images, np.ndarray) or images.dtype != np.float32 or images.ndim < 2:
        kind = getattr(images, "dtype", "")
        raise ValueError(
            f"images must be a float32 array [n, ...], got {type(images).__name__} {kind}"
        )
    if len(images) == 0 or images[0].size != source.inputs or images.nbytes > MOST_BYTES:
        raise ValueError(
            f"images must be at least one of {source.inputs} numbers and {MOST_BYTES:,} bytes at most, got "
            f"{list(images.shape)}"
        )
    if not np.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or an infinity")
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        listed = ",\n".join(map(number, flat.reshape(-1)))
        board = (HERE / "cortex_m.c").read_text(encoding="ascii")
        whole = f"{source.text}\n{board}\nconst float images[] = {{\n{listed}\n}};\n"
        (place / "board.c").write_text(whole, encoding="ascii")
        defined = (f"-DRUN={source.name}", f"-DIMAGES={len(flat)}", f"-DINPUTS={flat.shape[1]}")
        link = ("-nostartfiles", "-T", str(HERE / "cortex_m.ld"), "board.c", "-o", "board.elf")
        _call([COMPILER, *FLAGS, *defined, f"-DOUTPUTS={source.outputs}", *link], place)
        board_of = (
            "-machine",
            "mps2-an385",
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "none",
        )
        asked = ("-semihosting-config", "enable=on,target=native", "-icount", "shift=0")
        told = _call([EMULATOR, *board_of, *asked, "-kernel", "board.elf"], place, errors_too=True)
    return _read(told, len(flat), source.outputs)


def _read(told: str, images: int, outputs: int) -> Emulated:
    # The emulator's own warnings stand between the rows.
    rows = [row.split() for row in told.splitlines() if ROW.fullmatch(row)]
    if [len(row) for row in rows] != [outputs + 2] * images:
        raise RuntimeError(f"the board answered otherwise than asked: {told[:500]!r}")
    numbers = np.array([[int(word, 16) for word in row] for row in rows], np.uint32)
    logits = np.ascontiguousarray(numbers[:, 2:]).view(np.float32)
    ticks = numbers[:, 0].astype(np.int64) * TICKS_A_WRAP + np.ascontiguousarray(
        numbers[:, 1]
    ).view(np.int32)
    return Emulated(logits, ticks * INSTRUCTIONS_A_TICK)


def _need(*names: str) -> None:
    absent = [name for name in names if name in missing()]
    if absent:
        raise FileNotFoundError(
            f"{', '.join(absent)} not found: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi "
            "qemu-system-arm"
        )


def _call(command: list[str], place: Path, errors_too: bool = False) -> str:
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} did not end within {SECONDS} seconds") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{command[0]} failed with {done.returncode}: {said[-1500:]}")
    return done.stdout + (done.stderr if errors_too else "")
