"""The committed notebooks: labs are the release of their solutions, specs are right, answers pass."""

import ast
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from compresslab.classroom import checking, compare
from compresslab.classroom.exercises import EXERCISES, of_grade_id
from compresslab.classroom.judge import judge
from compresslab.classroom.release import read_solution

ROOT = Path(__file__).parents[2]
SOLUTIONS = sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))
every = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
SMALL = 5000


def test_there_are_labs():
    assert len(SOLUTIONS) >= 2
    names = {p.stem for p in SOLUTIONS}
    assert {p.stem for p in (ROOT / "labs").glob("[0-9]*.ipynb")} == names


@every
def test_the_lab_is_the_release_of_its_solution(path):
    released = read_solution(path)
    committed = (ROOT / "labs" / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    assert committed == nbformat.writes(released.lab) + "\n", "run `make release`"


@every
def test_the_executed_solution_belongs_to_its_text_and_has_no_error(path):
    notebook = nbformat.read(ROOT / "solutions" / f"{path.stem}.ipynb", as_version=4)
    released = read_solution(path)
    assert notebook.metadata.compresslab.source_hash == released.source_hash, "run `make release`"
    assert [c.source for c in notebook.cells] == [c.source for c in released.solution.cells]
    kinds = {o.output_type for c in notebook.cells if c.cell_type == "code" for o in c.outputs}
    assert "error" not in kinds


FLOAT = ("float32", "teacher", "MLP", "VGG-like, dense")
WITHOUT_A_NETWORK_OF_ITS_OWN = {
    "14_clinic": "its tables are of faults, none is of a compressed network's file"
}


@every
def test_the_casts_are_the_first_rows_below_the_floats(path):
    """Half precision costs nothing: what is compressed is compared with it before anything else."""
    if path.stem in WITHOUT_A_NETWORK_OF_ITS_OWN:
        pytest.skip(WITHOUT_A_NETWORK_OF_ITS_OWN[path.stem])
    notebook = nbformat.read(ROOT / "solutions" / f"{path.stem}.ipynb", as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    pages = ["".join(o.get("data", {}).get("text/html", "")) for o in outputs]
    labels = [re.findall(r"<tr[^>]*>\s*<t[dh][^>]*>(?:<[^>]*>)*([^<]*)", page) for page in pages]
    found = [
        rows[at - 2]
        for rows in labels
        for at in range(2, len(rows))
        if "bfloat16" in rows[at] and "float16" in rows[at - 1]
    ]
    assert found
    assert set(found) <= set(FLOAT)


@every
def test_no_answer_leaks_into_the_lab(path):
    lab = (ROOT / "labs" / f"{path.stem}.ipynb").read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in lab
    text = path.read_text(encoding="utf-8")
    regions = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", text, re.DOTALL)
    assert regions
    for region in regions:
        answer = nbformat.writes(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(region)])
        )
        last_line = region.strip().splitlines()[-1].strip()
        assert answer not in lab
        assert len(last_line) < 12 or last_line not in lab.replace('\\"', '"'), last_line


@every
def test_a_lab_has_its_form(path):
    cells = read_solution(path).lab.cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    ids = [c.metadata.nbgrader.grade_id for c in cells if "nbgrader" in c.metadata]
    answers = [of_grade_id(i).id for i in ids if of_grade_id(i) and not i.endswith("-check")]
    code = "\n".join(c.source for c in cells if c.cell_type == "code")
    assert len(answers) >= 4
    assert "**You will**" in text
    assert "## Recap" in text
    assert "**References.**" in text
    assert "What the papers say, what we measured" in text
    assert any(i.startswith("written-") for i in ids)
    assert code.count("predict(") >= 2
    assert code.count("claim(") >= 4
    for id in answers:
        assert f'adopt({id.split(".")[1]}, "{id}")' in code
        assert f"### Exercise {answers.index(id) + 1} · {EXERCISES[id].title}" in text


def calls(path):
    """(name, call) of everything that a lab's code calls, answers left out: they are graded alone."""
    source = path.read_text(encoding="utf-8")
    answer = r"( *)### BEGIN SOLUTION.*?### END SOLUTION"
    source = re.sub(answer, r"\1pass", source, flags=re.DOTALL)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "id", getattr(node.func, "attr", "")), node


SEEDED = ("manual_seed", "default_rng", "seed_everything", "PCG64")
NEEDS_A_SEED = {"fit": "seed", "load": "seed", "fit_all": "seeds"}


@every
def test_all_randomness_of_a_lab_comes_from_its_seeds(path):
    """COMPRESSLAB_SEED shifts the seeds that `begin` gives, and so must reach every draw."""
    found = list(calls(path))
    assert sum(name == "begin" for name, _ in found) == 1
    for name, call in found:
        place = f"line {call.lineno}: {ast.unparse(call)[:80]}"
        if name in SEEDED:
            assert call.args, place
            assert not isinstance(call.args[0], ast.Constant), place
        for keyword in call.keywords:
            if keyword.arg in ("seed", "random_state", "data_seed"):
                assert not isinstance(keyword.value, ast.Constant), place
        if isinstance(call.func, ast.Name) and NEEDS_A_SEED.get(name):
            named = {keyword.arg for keyword in call.keywords}
            assert {NEEDS_A_SEED[name], None} & named or len(call.args) > 7, place


@every
def test_a_lab_leaves_torch_on_the_threads_that_it_began_with(path):
    assert "set_num_threads" not in {name for name, _ in calls(path) if name}


@every
def test_a_claim_has_a_margin_unless_it_is_exact(path):
    """A comparison of measured numbers as True or False would hide how close it was."""
    for name, call in calls(path):
        if name == "claim" and len(call.args) == 2:
            margin = ast.unparse(call.args[1])
            assert not re.search(r"accuracy|evaluate\(|lost\(|perplexity", margin) or "==" in margin


def blocks(path, pattern):
    """Code by exercise id: of spec blocks in the text, or of answer cells."""
    found = {}
    for cell in read_solution(path).solution.cells:
        id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if pattern == "answer" and of_grade_id(id) and not id.endswith("-check"):
            found[of_grade_id(id).id] = cell.source
        if pattern == "spec" and cell.cell_type == "markdown":
            for block in re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL):
                name = re.search(r"def (\w+)_spec\(", block)
                if name:
                    found[name[1]] = block
    return found


def imports(path):
    """What the lab's cells import."""
    cells = [c.source for c in read_solution(path).solution.cells if c.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.parse(cell).body]
    tree = ast.parse("")
    tree.body = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    namespace = {"math": math, "np": np, "torch": torch}
    exec(compile(tree, path.name, "exec"), namespace)
    return namespace


@every
def test_every_model_answer_passes(path):
    for id, source in blocks(path, "answer").items():
        namespace = imports(path)
        exec(source, namespace)
        result = judge(namespace[id.split(".")[1]], EXERCISES[id])
        assert result.passed, str(result)


def is_small(case):
    return all(
        compare.size(a) < 500 and (not isinstance(a, int) or abs(a) < SMALL) for a in case.args
    )


@every
def test_every_spec_in_the_text_is_right(path):
    specs = blocks(path, "spec")
    for id in blocks(path, "answer"):
        exercise, name = EXERCISES[id], id.split(".")[1]
        if name not in specs:
            continue
        namespace = imports(path)
        exec(specs[name], namespace)
        spec = exercise.driven(namespace[f"{name}_spec"])
        reference = exercise.driven(exercise.reference)
        cases = [c for c in exercise.cases(np.random.default_rng(0)) if is_small(c)]
        assert len(cases) >= 3
        for case in cases:
            got, expected = spec(*compare.fresh(case.args)), reference(*compare.fresh(case.args))
            difference = compare.difference(got, expected, max(exercise.tolerance, 1e-6))
            assert difference is None, f"{id}, {case.label}: {difference}"


@every
def test_a_pasted_specification_earns_half_at_most(path):
    """Right and slow: full points are for what the task asks, not for what it prints."""
    specs = blocks(path, "spec")
    for id in blocks(path, "answer"):
        exercise, name = EXERCISES[id], id.split(".")[1]
        if name not in specs:
            continue
        namespace = imports(path)
        exec(specs[name], namespace)
        result = checking.verdict(namespace[f"{name}_spec"], id)
        assert result.points <= exercise.points / 2, f"{id}: {result}"
        if not exercise.compiled:
            assert result.status == "slow", f"{id}: {result}"


@every
def test_only_warm_ups_print_a_slow_version_which_is_slow_and_folded(path):
    """A formula that has no slow form is not printed as code: it would be the answer."""
    lab = read_solution(path).solution
    specs = blocks(path, "spec")
    for id in blocks(path, "answer"):
        exercise = EXERCISES[id]
        has_slow_form = exercise.large is not None or exercise.compiled
        assert (id.split(".")[1] in specs) == (exercise.kind == "warm-up" and has_slow_form), id
    for cell in lab.cells:
        if cell.cell_type == "markdown" and "_spec(" in cell.source:
            before = cell.source.split("```python")[0]
            assert before.rstrip().endswith("<details><summary>Show a slow version</summary>")
            assert "</details>" in cell.source


@every
def test_headings_say_the_kind_and_points_of_each_exercise(path):
    text = "\n".join(
        c.source for c in read_solution(path).solution.cells if c.cell_type == "markdown"
    )
    for id in blocks(path, "answer"):
        e = EXERCISES[id]
        kind = "" if e.kind == "warm-up" else f"{e.kind}, "
        line = f"about {e.lines} line{'s' * (e.lines > 1)}"
        points = f"{e.points} point{'s' * (e.points > 1)}"
        pattern = rf"### Exercise \d+ · .+ \({kind}{points}, {line}\)"
        assert re.search(pattern, text), f"{id}: {pattern}"
