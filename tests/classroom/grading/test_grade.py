"""Marks: model answers by all labs, nothing for nothing, folders, records, the command line."""

import copy
import csv
import json
import os
import shutil
import tracemalloc
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from compresslab.classroom import compare, stub
from compresslab.classroom.exercises import EXERCISES, LABS, of_grade_id
from compresslab.classroom.grading import folder as grading
from compresslab.classroom.grading import grade as marking
from compresslab.classroom.grading.cases import ENOUGH_DRAWN, cases_of
from compresslab.classroom.grading.grade import exercises_of, grade_notebook
from compresslab.classroom.grading.mark import points_of
from compresslab.classroom.grading.sandbox import MISSING, SandboxError, bubblewrap
from compresslab.classroom.judge import CHECK_SEED, call, verdict
from compresslab.classroom.result import Outcome
from compresslab.cli import app
from compresslab.writing import UMASK

ROOT = Path(__file__).parents[3]
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
EXPECTED = LABS["12_capstone"]
POINTS = sum(e.points for e in EXPECTED)
WARM_UPS = sum(e.points for e in EXPECTED if e.kind == "warm-up")
needs_walls = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)


# ---- points --------------------------------------------------------------------------------------
@needs_walls
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
@pytest.mark.honest("models")
def test_model_answers_get_full_marks(path):
    marks = grade_notebook(path, "model", path.stem, seed=20_261_121)
    assert [m.exercise for m in marks] == [e.id for e in exercises_of(path.stem)]
    assert [(m.status, m.points) for m in marks] == [("passed", m.out_of) for m in marks]


@needs_walls
@pytest.mark.attack("judge")
def test_a_lab_as_it_is_handed_out_gets_nothing():
    marks = grade_notebook(ROOT / "labs" / "12_capstone.ipynb", "lazy", "12", seed=1)
    assert {m.status for m in marks} == {"not done"}
    assert sum(m.points for m in marks) == 0


NOT_OPEN = [e for e in EXERCISES.values() if e.kind != "open"]
NOTHING = {
    "the first argument": lambda *args: copy.deepcopy(args[0]),
    "zero": lambda *args: 0,
    "one": lambda *args: 1.0,
    "zeros like the first argument": lambda *args: _like(args[0], 0),
    "ones like the last argument": lambda *args: _like(args[-1], 1),
    "nothing": lambda *args: None,
    "True": lambda *args: True,
    "the first two": lambda *args: tuple(copy.deepcopy(args[:2])),
}


def _like(value, number):
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, number)
    return np.full_like(value, number) if isinstance(value, np.ndarray) else number


def earned(e, seed, function):
    """Points of a function in a grading run, without its sandbox."""
    cases, drawn, expected = cases_of(e, seed)
    driven = e.driven(function)
    outcomes = [call(driven, case) for case in cases]
    if e.kind != "warm-up":
        return verdict(e, cases, outcomes, expected=expected).points
    return points_of(e.points, marking._right(e, outcomes, expected), drawn)


@pytest.mark.parametrize("e", EXERCISES.values(), ids=lambda e: e.id)
@pytest.mark.attack("judge")
def test_an_answer_that_does_nothing_earns_nothing(e):
    for name, function in NOTHING.items():
        assert earned(e, 3, function) == 0, name


def which_are_right(e, cases, function):
    driven = e.driven(function)
    return [verdict(e, [case], [call(driven, case)]).passed for case in cases]


ONE_LINERS = {
    "ptq.best_threshold": lambda values, thresholds, high: int(thresholds.argmax()),
    "low_rank.rank_for_energy": lambda values, share: int(np.count_nonzero(values)),
    "binary.best_scale": lambda w: w.max(-1),
}


@pytest.mark.parametrize("id,function", ONE_LINERS.items())
@pytest.mark.attack("judge")
def test_a_guess_that_fits_the_fixed_cases_earns_nothing(id, function):
    e = EXERCISES[id]
    cases, drawn, _ = cases_of(e, seed=7)
    assert points_of(e.points, which_are_right(e, cases, function), drawn) == 0


@pytest.mark.attack("limits")
def test_two_small_arrays_do_not_fill_the_judges_memory():
    e = EXERCISES["low_rank.svd_factors"]
    case = e.cases(np.random.default_rng(1))[-1]
    thin = np.ones((1, 12_000), np.float32), np.ones((12_000, 1), np.float32)
    tracemalloc.start()
    outcome = marking._looked_at(e, case, Outcome(thin))
    result = verdict(e, [case], [outcome])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not result.passed
    assert most < 20 * 2**20


@pytest.mark.parametrize("e", NOT_OPEN, ids=lambda e: e.id)
@pytest.mark.attack("judge")
def test_a_table_of_the_cases_that_a_learner_is_shown_earns_nothing(e):
    shown = list(e.cases(np.random.default_rng(CHECK_SEED)))
    reference = e.driven(e.reference)
    table = [(case.args, reference(*compare.fresh(case.args))) for case in shown]
    cases, drawn, _ = cases_of(e, seed=4242)

    def looked_up(case):
        return next((value for args, value in table if compare.identical(args, case.args)), None)

    outcomes = [Outcome(looked_up(case)) for case in cases]
    if e.kind == "build":
        assert verdict(e, cases, outcomes).points == 0
        return
    right = [verdict(e, [c], [o]).passed for c, o in zip(cases, outcomes, strict=True)]
    assert sum(drawn) >= ENOUGH_DRAWN
    assert points_of(e.points, right, drawn) == 0


@pytest.mark.parametrize("e", NOT_OPEN, ids=lambda e: e.id)
@pytest.mark.attack("mistakes")
def test_no_known_mistake_gets_full_marks_whatever_the_seed(e):
    for seed in (11, 12):
        cases, _, _ = cases_of(e, seed)
        for mistake in e.mistakes:
            assert not all(which_are_right(e, cases, mistake.wrong)), mistake.name


@pytest.mark.parametrize(
    "points,right,drawn,given",
    [
        (3, "111111", "000011", 3),
        (3, "011111", "000011", 2.5),
        (2, "110100", "010100", 1),
        (3, "110000", "110000", 0),
        (1, "011111", "000111", 0.75),
        (2, "00000", "00011", 0),
        (3, "111110", "000011", 1.5),
        (3, "111100", "000011", 0),
        (3, "111100", "000000", 2),
    ],
)
def test_points_are_a_share_in_quarters_of_all_cases_or_of_the_drawn_ones(
    points, right, drawn, given
):
    flags = [[mark == "1" for mark in text] for text in (right, drawn)]
    assert points_of(points, *flags) == given


def test_exercises_have_numbers_of_their_own_and_seeds_repeat():
    e = exercises_of("12")[2]
    one, two, other = (cases_of(e, seed)[0][-1].args[0] for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("lab", ["99", "x", "", "1"])
def test_another_lab_is_refused(lab):
    with pytest.raises(ValueError, match="lab must begin with a number from 00 to 15"):
        exercises_of(lab)


# ---- a class -------------------------------------------------------------------------------------
class Here(Executor):
    """Runs at once, in this process; counts, and fails where it is told to."""

    def __init__(self, fails=()):
        self.ran, self.fails = [], list(fails)

    def submit(self, function, job):
        self.ran.append(job.learner)
        future = Future()
        if job.learner in self.fails:
            self.fails.remove(job.learner)
            future.set_exception(RuntimeError("the worker died"))
        else:
            future.set_result(function(job))
        return future


def hand_in(path):
    """Lab 12 with its warm-ups answered: the rest trains, and here it is about files and workers."""
    notebook = nbformat.read(ROOT / "solutions" / "12_capstone.ipynb", 4)
    empty = nbformat.read(ROOT / "labs" / "12_capstone.ipynb", 4)
    for cell, stub_cell in zip(notebook.cells, empty.cells, strict=True):
        found = of_grade_id(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        if found and found.kind != "warm-up":
            cell.source = stub_cell.source
    nbformat.write(notebook, path)


@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "in" / "a class"
    for name in ("alice", "zoë"):
        (folder / name).mkdir(parents=True)
    hand_in(folder / "alice" / "12_capstone.ipynb")
    shutil.copy(ROOT / "labs" / "11_llm_weights.ipynb", folder / "alice")
    shutil.copy(ROOT / "labs" / "12_capstone.ipynb", folder / "zoë" / "my_notebook.ipynb")
    (folder / "=1+1.ipynb").write_text("{")
    (folder / "notes.txt").write_text("not a notebook")
    (folder / ".hidden").mkdir()
    return folder


def run(folder, out, executor, **options):
    return grading.grade_folder(folder, "12", out, executor, progress=False, **options)


@needs_walls
def test_a_class_is_graded_into_csv_and_json(class_folder, tmp_path):
    out = tmp_path / "out" / "marks.csv"
    before = {p: p.read_bytes() for p in class_folder.rglob("*") if p.is_file()}
    marks = run(class_folder, out, Here(), seed=4)
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    content = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert content["run"]["seed"] == 4
    assert len(rows) == len(content["marks"]) == len(marks) == 3 * len(EXPECTED)
    by_learner = {}
    for row in rows:
        by_learner[row["learner"]] = by_learner.get(row["learner"], 0) + float(row["points"])
    # A spreadsheet must not take a name for a formula.
    assert by_learner == {"'=1+1": 0, "alice": WARM_UPS, "zoë": 0}
    assert {m["status"] for m in content["marks"]} == {"missing", "passed", "not done"}
    assert {p: p.read_bytes() for p in class_folder.rglob("*") if p.is_file()} == before


@needs_walls
def test_one_sandbox_serves_several_learners_and_a_broken_one_is_given_up(tmp_path):
    # Of answers: untouched cells need no sandbox.
    paths = [tmp_path / "one.ipynb"] * 2
    hand_in(paths[0])
    sandboxes = set()
    for path in paths:
        grade_notebook(path, "x", "12", seed=1)
        with marking.opened(False) as sandbox:
            sandboxes.add(id(sandbox))
            number = sandbox.process.pid
    assert len(sandboxes) == 1

    def break_it():
        with marking.opened(False):
            raise SandboxError("it is broken")

    with pytest.raises(SandboxError):
        break_it()
    grade_notebook(paths[0], "x", "12", seed=1)
    with marking.opened(False) as sandbox:
        assert sandbox.process.pid != number


@needs_walls
def test_an_interrupted_run_goes_on_and_marks_stay(class_folder, tmp_path):
    out = tmp_path / "marks.csv"

    class Interrupted(Here):
        def submit(self, function, job):
            if len(self.ran) == 2:
                raise KeyboardInterrupt
            return super().submit(function, job)

    with pytest.raises(KeyboardInterrupt):
        run(class_folder, out, Interrupted())
    assert not out.exists()
    first = Here()
    marks = run(class_folder, out, first)
    text = out.read_text(encoding="utf-8")
    second = Here()
    assert [m.points for m in run(class_folder, out, second)] == [m.points for m in marks]
    assert second.ran == []
    assert out.read_text(encoding="utf-8") == text


@needs_walls
def test_a_changed_notebook_or_another_seed_is_graded_anew(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    run(class_folder, out, Here(), seed=1)
    hand_in(class_folder / "=1+1.ipynb")
    changed = Here()
    marks = run(class_folder, out, changed)
    assert changed.ran == ["=1+1"]
    assert sum(m.points for m in marks if m.learner == "=1+1") == WARM_UPS
    reseeded = Here()
    run(class_folder, out, reseeded, seed=2)
    assert sorted(reseeded.ran) == ["=1+1", "alice", "zoë"]


@needs_walls
def test_a_broken_record_is_not_believed(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    run(class_folder, out, Here(), seed=1)
    for record in out.with_name("marks.csv.records").glob("*.json"):
        if record.name != "run.json":
            record.write_text("{", encoding="utf-8")
    again = Here()
    with pytest.warns(UserWarning, match=r"[0-9a-f]{24}\.json, the record of .* is broken"):
        run(class_folder, out, again)
    assert len(again.ran) == 3


@needs_walls
def test_a_worker_that_dies_once_costs_nothing_and_twice_is_told(class_folder, tmp_path):
    once = Here(fails=["alice"])
    marks = run(class_folder, tmp_path / "a.csv", once)
    assert once.ran.count("alice") == 2
    assert sum(m.points for m in marks if m.learner == "alice") == WARM_UPS
    twice = Here(fails=["alice", "alice"])
    marks = run(class_folder, tmp_path / "b.csv", twice)
    assert {m.status for m in marks if m.learner == "alice"} == {"lost"}
    assert all("the worker died" in m.message for m in marks if m.learner == "alice")
    # What was lost is tried anew the next time.
    later = Here()
    run(class_folder, tmp_path / "b.csv", later)
    assert later.ran == ["alice"]


@needs_walls
@pytest.mark.attack("files")
def test_odd_names_and_pipes_end_no_batch(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(ROOT / "labs" / "12_capstone.ipynb", folder / "zoe.ipynb")
    (folder / os.fsdecode(b"al\xff.ipynb")).write_text("{")
    os.mkfifo(folder / "pipe.ipynb")
    (folder / "link.ipynb").symlink_to(folder / "pipe.ipynb")
    (folder / ("n" * 200 + ".ipynb")).write_text("{")
    marks = run(folder, tmp_path / "m.csv", Here(), seed=1)
    assert len({m.learner for m in marks}) == 5
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["run"]["seed"] == 1


class Breaks(Here):
    """A pool whose process dies with the first submission."""

    def submit(self, function, job):
        future = Future()
        future.set_exception(BrokenProcessPool("a process died"))
        return future


@needs_walls
def test_a_pool_that_breaks_costs_nobody_a_mark(class_folder, tmp_path):
    marks = run(class_folder, tmp_path / "m.csv", Breaks(), seed=1)
    assert sum(m.points for m in marks if m.learner == "alice") == WARM_UPS
    assert "lost" not in {m.status for m in marks}


@needs_walls
def test_a_fault_of_the_judge_costs_one_exercise(monkeypatch, tmp_path):
    real = marking.verdict
    hand_in(tmp_path / "12_capstone.ipynb")

    def faulty(exercise, *arguments, **named):
        if exercise.id == "combine.gaps":
            raise ZeroDivisionError("a fault")
        return real(exercise, *arguments, **named)

    monkeypatch.setattr(marking, "verdict", faulty)
    marks = grade_notebook(tmp_path / "12_capstone.ipynb", "x", "12", seed=1)
    warm_ups = [e for e in EXPECTED if e.kind == "warm-up"]
    assert [m.status for m in marks].count("passed") == len(warm_ups) - 1 > 0
    lost = next(m for m in marks if m.status == "lost")
    assert lost.exercise == "combine.gaps"
    assert "ZeroDivisionError: a fault" in lost.message


@needs_walls
def test_what_was_graded_is_what_the_record_is_of(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    path = class_folder / "alice" / "12_capstone.ipynb"

    class Meanwhile(Here):
        def submit(self, function, job):
            future = super().submit(function, job)
            if job.learner == "alice":
                shutil.copy(ROOT / "labs" / "12_capstone.ipynb", path)  # handed in anew, too late
            return future

    marks = run(class_folder, out, Meanwhile())
    assert sum(m.points for m in marks if m.learner == "alice") == WARM_UPS
    again = Here()
    marks = run(class_folder, out, again)
    assert again.ran == ["alice"]
    assert sum(m.points for m in marks if m.learner == "alice") == 0


@needs_walls
def test_results_do_not_overwrite_one_another(tmp_path):
    names = ("results.json", "marks.11", "marks.12", "marks")
    for learner in ("ada", "bob"):  # nobody has answered anything: it is about files
        (tmp_path / "in" / learner).mkdir(parents=True)
        shutil.copy(ROOT / "labs" / "12_capstone.ipynb", tmp_path / "in" / learner)
    out = tmp_path / "out"
    out.mkdir()
    for name in names:
        run(tmp_path / "in", out / name, Here(), seed=3)
    wanted = {*names, *(f"{name}.json" for name in names)}
    assert {p.name for p in out.iterdir() if p.is_file()} == wanted
    assert {p.name for p in out.glob("*.records")} == {f"{name}.records" for name in names}


def table_of_marks(name, class_folder, tmp_path):
    (tmp_path / name).write_text("learner,exercise\n")
    text = json.dumps({"run": {"lab": "12_capstone", "seed": 3, "table": name}, "marks": []})
    (tmp_path / "marks.json").write_text(text)


@pytest.mark.parametrize(
    "before,out", [("marks.csv", "marks"), ("marks", "marks.csv"), ("marks.csv", "marks.json")]
)
def test_a_run_of_another_name_is_not_overwritten(class_folder, tmp_path, before, out):
    table_of_marks(before, class_folder, tmp_path)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match=r"give another --out, or delete it"):
        run(class_folder, tmp_path / out, Here())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == kept


@pytest.mark.parametrize("head", ["learner,question,points,out_of,remark\n", "", "x"])
def test_a_table_of_another_kind_is_not_overwritten(class_folder, tmp_path, head):
    (tmp_path / "marks.csv").write_text(head)
    with pytest.raises(ValueError, match="is no table of marks"):
        run(class_folder, tmp_path / "marks.csv", Here())
    assert (tmp_path / "marks.csv").read_text() == head


def test_a_run_that_is_refused_leaves_the_seed_as_it_was(class_folder, tmp_path):
    records = tmp_path / "marks.csv.records"
    records.mkdir()
    about = json.dumps({"lab": "12", "seed": 1})
    (records / "run.json").write_text(about)
    (records / "0.json").write_text(
        json.dumps({"stamp": {"learner": "somebody else"}, "marks": []})
    )
    with pytest.raises(ValueError, match="another class"):
        run(class_folder, tmp_path / "marks.csv", Here(), seed=99)
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "nothing", tmp_path / "marks.csv", Here(), seed=99)
    assert (records / "run.json").read_text() == about


def test_another_classs_results_are_not_overwritten(class_folder, tmp_path):
    records = tmp_path / "marks.csv.records"
    records.mkdir()
    (records / "run.json").write_text(json.dumps({"lab": "12", "seed": 1}))
    (records / "0.json").write_text(
        json.dumps({"stamp": {"learner": "somebody else"}, "marks": []})
    )
    with pytest.raises(ValueError, match=r"marks of another class \(somebody else"):
        run(class_folder, tmp_path / "marks.csv", Here())


def test_another_labs_results_are_not_overwritten(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    records = tmp_path / "marks.csv.records"
    records.mkdir()
    (records / "run.json").write_text(json.dumps({"lab": "11", "seed": 1}))
    with pytest.raises(ValueError, match="holds the marks of lab 11_llm_weights, not 12_capstone"):
        run(class_folder, out, Here())


@pytest.mark.parametrize("text", ["{", "[]", '{"lab": "12"}', '{"lab": "77", "seed": 1}'])
def test_a_broken_run_is_named(class_folder, tmp_path, text):
    records = tmp_path / "marks.csv.records"
    records.mkdir()
    (records / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is broken"):
        run(class_folder, tmp_path / "marks.csv", Here())


@needs_walls
def test_files_are_the_groups_as_well(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    run(class_folder, out, Here(), seed=1)
    wanted = 0o666 & ~UMASK
    files = [out, out.with_suffix(".json"), *out.with_name("marks.csv.records").glob("*.json")]
    assert {p.stat().st_mode & 0o777 for p in files} == {wanted}
    out.chmod(0o660)
    run(class_folder, out, Here(), seed=1)
    assert out.stat().st_mode & 0o777 == 0o660


# ---- the command line ----------------------------------------------------------------------------
@needs_walls
def test_the_command_grades_with_processes(class_folder, tmp_path):
    out = tmp_path / "marks.csv"
    options = ["--lab", "12_capstone", "--out", str(out), "--workers", "2", "--seed", "7"]
    result = CliRunner().invoke(app, ["grade", str(class_folder), *options])
    assert result.exit_code == 0, result.output
    assert f"3 learners, {WARM_UPS} of {3 * POINTS} points" in result.output
    assert json.loads(out.with_suffix(".json").read_text())["run"]["seed"] == 7


def test_without_walls_the_command_says_what_is_missing(class_folder, tmp_path, monkeypatch):
    missing = "compresslab.classroom.grading.sandbox.probe"
    monkeypatch.setattr(missing, lambda: (None, "it is too old"))
    options = ["--lab", "12", "--out", str(tmp_path / "m.csv")]
    result = CliRunner().invoke(app, ["grade", str(class_folder), *options])
    assert result.exit_code == 2
    assert "--allow-unsandboxed" in result.output
    assert "it is too old" in result.output
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize("options", [["--lab", "77"], ["--lab", "x"]])
def test_the_command_refuses_what_cannot_be(class_folder, tmp_path, options):
    arguments = ["grade", str(class_folder), *options, "--out", str(tmp_path / "m.csv")]
    result = CliRunner().invoke(app, [*arguments, "--allow-unsandboxed"])
    assert result.exit_code == 2
    assert "lab must begin with a number" in result.output


def test_an_untouched_lab_needs_no_sandbox(monkeypatch):
    monkeypatch.setattr(marking.Sandbox, "run", lambda *_: pytest.fail("it was run"))
    marks = grade_notebook(ROOT / "labs" / "00_measure_first.ipynb", "x", "00", seed=1)
    assert {(mark.status, mark.points) for mark in marks} == {("not done", 0.0)}


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        (
            "def f(x, n=1):\n    'Words.'\n    # your code here\n    raise NotImplementedError('not yet')",
            True,
        ),
        ("def f(*, n=None):\n    raise NotImplementedError", True),
        ("def g(x):\n    raise NotImplementedError", False),
        ("def f(x):\n    pass", False),
        ("def f(x):\n    return 1\n    raise NotImplementedError", False),
        ("def f(x):\n    raise ValueError", False),
        ("@solve\ndef f(x):\n    raise NotImplementedError", False),
        ("def f(x, n=solve()):\n    raise NotImplementedError", False),
        ("def f(x):\n    raise NotImplementedError\nf = max", False),
        ("def f(x):\n    raise NotImplementedError((yield x))", False),
        ("def f(x):\n    raise NotImplementedError from 3", False),
        ("def f(x: solve()):\n    raise NotImplementedError", False),
        ("def f(x) -> solve():\n    raise NotImplementedError", False),
        ("async def f(x):\n    raise NotImplementedError", False),
        ("def f(x", False),
        ("", False),
    ],
)
def test_only_a_cell_whose_doing_is_known_is_not_run(source, is_one):
    assert stub.only_raises_not_done(source, "f") is is_one
