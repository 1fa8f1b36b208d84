"""The command line: `compresslab lab | progress | release | checkpoint`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


def _course_folder(name: str) -> Path:
    for base in (Path.cwd(), *Path.cwd().parents):
        if (base / name).is_dir() and (base / "pyproject.toml").is_file():
            return base / name
    raise typer.BadParameter(f"no folder '{name}' here or above: run this in the course's folder")


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="where JupyterLab listens")] = 8888,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """Open JupyterLab in labs/."""
    folder = _course_folder("labs")
    options = [f"--notebook-dir={folder}", f"--port={port}"]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    command = [sys.executable, "-m", "jupyterlab", *options]
    os.execv(sys.executable, command)


@app.command()
def progress() -> None:
    """Show which exercises are done."""
    from compresslab.classroom.progress import progress_file, summary

    typer.echo(summary())
    typer.echo(f"kept in {progress_file()}")


@app.command()
def checkpoint(name: Annotated[str, typer.Argument(help="keywords or gpt")]) -> None:
    """Train a network that the package carries, and write its file (minutes)."""
    from compresslab import pretrained

    makers = {"keywords": pretrained.make_keyword_teacher, "gpt": pretrained.make_language_model}
    if name not in makers:
        raise typer.BadParameter(f"name must be one of {', '.join(makers)}, got {name!r}")
    typer.echo(makers[name]())


@app.command()
def release(
    only: Annotated[list[str] | None, typer.Argument(help="such as 01_numbers")] = None,
    force: Annotated[bool, typer.Option(help="execute unchanged solutions again")] = False,
) -> None:
    """Make labs/ and the executed notebooks from solutions/*.py (authors only)."""
    from compresslab.classroom.release import ReleaseError
    from compresslab.classroom.release import release as make

    solutions = _course_folder("solutions")
    try:
        changed = make(solutions, solutions.parent / "labs", only or (), force)
    except ReleaseError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for path in changed:
        typer.echo(f"wrote {path.relative_to(solutions.parent)}")
    if not changed:
        typer.echo("nothing changed")


if __name__ == "__main__":
    app()
