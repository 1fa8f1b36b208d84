"""The reference: a page for each package of the library, which autodoc fills from the docstrings.

    api.md              the front door, and what each package is for
    api/kernels.md      compresslab.kernels and all of its modules

Left out: the classroom's machinery and the stored experiments (`PRIVATE`), and modules whose names begin with
an underscore.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

PRIVATE = ("checkpoints", "classroom", "locale", "longer")
"""Packages that nobody imports from outside."""


def write(package: Path, folder: Path) -> list[str]:
    """Write the pages into a folder; returns their names, without api.md.

    Args:
        package: folder of the library.
        folder: where api.md is written, and the others under api/.
    """
    (folder / "api").mkdir()
    names, rows = [], []
    for part in packages(package):
        text = page(part)
        (folder / "api" / f"{part.name}.md").write_text(text, encoding="utf-8")
        names.append(f"api/{part.name}")
        rows.append(f"- [`{package.name}.{part.name}`](api/{part.name}.md): {summary(part)}")
    alone = sorted(p for p in package.glob("*.py") if p.stem[0] != "_")
    lines = [
        *("# Reference", "", "From the docstrings of the library; `help()` shows the same.", ""),
        *("```{toctree}", ":hidden:", ":titlesonly:", "", *names, "```", ""),
        *("## The front door", "", *_automodule(package.name), *front_door(), ""),
        *("## Packages", "", *rows, "", "## Modules", ""),
        *(line for path in alone for line in _documented(f"{package.name}.{path.stem}")),
    ]
    (folder / "api.md").write_text("\n".join(lines), encoding="utf-8")
    return names


def front_door() -> list[str]:
    """A line for each name of `import compresslab as cl`, which leads to where it is documented."""
    import compresslab

    lines = []
    for name in compresslab.__all__:
        found = getattr(compresslab, name)
        if inspect.ismodule(found):
            role, place = "mod", found.__name__
        else:
            role, place = "obj", f"{found.__module__}.{found.__qualname__}"
        lines.append(
            f"- {{py:{role}}}`cl.{name} <{place}>`: {inspect.getdoc(found).splitlines()[0]}"
        )
    return lines


def packages(package: Path) -> list[Path]:
    """The library's packages that have pages, by name."""
    found = (p.parent for p in package.glob("*/__init__.py"))
    return sorted(p for p in found if p.name not in PRIVATE)


def page(part: Path) -> str:
    """The page of one package: itself and every module in it, its packages' modules too."""
    title = part.name
    lines = [f"# `{part.parent.name}.{title}`", "", *_automodule(f"{part.parent.name}.{title}")]
    for name in modules(part):
        lines += _documented(f"{part.parent.name}.{title}.{name}")
    return "\n".join(lines)


def modules(part: Path) -> Iterator[str]:
    """Names of the modules in a package, relative to it, such as "simd.lanes"."""
    for path in sorted(part.rglob("*.py")):
        parts = path.relative_to(part).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and not any(p.startswith("_") for p in parts):
            yield ".".join(parts)


def summary(part: Path) -> str:
    """The first line of a package's docstring.

    Raises:
        ValueError: if it has none.
    """
    text = ast.get_docstring(ast.parse((part / "__init__.py").read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{part / '__init__.py'} must have a docstring")
    return text.splitlines()[0]


def _documented(name: str) -> list[str]:
    return [f"## `{name}`", "", *_automodule(name)]


def _automodule(name: str) -> list[str]:
    # A name is documented where it is defined, not where it is handed on.
    return [*("```{eval-rst}", f".. automodule:: {name}", "   :ignore-module-all:", "```", "")]
