"""The part of the library that a browser needs, as a package of its own.

    python -m compresslab.classroom.light_package build/light

The check of recorded cases is a dozen modules, the cases, and what is said of them in other languages.
Whoever opens a page downloads these and not the trained networks, and Python in the browser may be newer than
torch allows for the whole.
"""

import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODULES = (
    "__init__.py",
    "language.py",
    "notice.py",
    "writing.py",
    *(
        f"classroom/{name}.py"
        for name in (
            *("__init__", "by_rule", "calls", "compare", "complaints", "exercise", "judge"),
            *("light", "progress", "relation", "result", "so_far", "steps", "stub"),
        )
    ),
)
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "compresslab"
version = "0.1.0"
description = "The check of compresslab's exercises that need NumPy alone."
requires-python = ">=3.11"
dependencies = ["numpy", "polib"]

[tool.setuptools]
packages = ["compresslab", "compresslab.classroom"]

[tool.setuptools.package-data]
compresslab = ["classroom/by_rule.json", "classroom/recorded/*.json", "locale/**/*.po"]
"""


def write_package(folder: Path) -> None:
    """Write the modules, the recorded cases and a pyproject.toml into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in MODULES:
        target = folder / "compresslab" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, target)
    shutil.copy(PACKAGE / "classroom/by_rule.json", folder / "compresslab/classroom")
    shutil.copytree(PACKAGE / "classroom/recorded", folder / "compresslab/classroom/recorded")
    for path in (PACKAGE / "locale").rglob("*.po"):
        if path.name == "library.po" or path.parent.name == "exercises":
            target = folder / "compresslab" / path.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")


if __name__ == "__main__":
    write_package(Path(sys.argv[1]))
