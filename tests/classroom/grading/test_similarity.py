"""Copies are found under other names; what everybody was given, or is too short to tell, is not."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from compresslab.classroom.grading.similarity import Pair, alike, similarity_page, subtrees
from compresslab.cli import app

ROOT = Path(__file__).parents[3]
ID = "low_rank.choose_ranks"
MINE = """
def choose_ranks(matrices, budget):
    spectra = [np.linalg.svd(m, compute_uv=False) ** 2 for m in matrices]
    ranks = [1] * len(matrices)
    spent = sum(sum(m.shape) for m in matrices)
    while True:
        gains = []
        for index, spectrum in enumerate(spectra):
            price = sum(matrices[index].shape)
            if ranks[index] < len(spectrum) and spent + price <= budget:
                gains.append((spectrum[ranks[index]] / price, index))
        if not gains:
            return ranks
        _, best = max(gains)
        ranks[best] += 1
        spent += sum(matrices[best].shape)
"""
COPY = '''
def choose_ranks(weights: list, limit: int) -> list[int]:
    """I wrote this alone."""
    # squares of the singular values
    energy: list = [np.linalg.svd(w, compute_uv=False) ** 2 for w in weights]
    r = [1] * len(weights)
    used = sum(sum(w.shape) for w in weights)
    while True:
        options = []
        for i, e in enumerate(energy):
            cost = sum(weights[i].shape)
            if r[i] < len(e) and used + cost <= limit:
                options.append((e[r[i]] / cost, i))

        if not options:
            return r
        _, top = max(options)
        r[top] += 1
        used += sum(weights[top].shape)
'''
OTHER = """
def choose_ranks(matrices, budget):
    def cost(threshold):
        kept = [int((s > threshold * sum(m.shape)).sum()) for s, m in zip(energies, matrices)]
        kept = [max(1, k) for k in kept]
        return sum(k * sum(m.shape) for k, m in zip(kept, matrices)), kept

    energies = [torch.linalg.svdvals(torch.tensor(m)).numpy() ** 2 for m in matrices]
    low, high = 0.0, max(e.max() for e in energies)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle)[0] <= budget else (middle, high)
    return cost(high)[1]
"""
SHORT = (
    "def choose_ranks(matrices, budget):\n    return [budget // len(matrices)] * len(matrices)\n"
)


def class_of(**sources):
    return {name: {ID: source} for name, source in sources.items()}


def test_a_copy_with_other_names_and_comments_is_found():
    pairs = alike(class_of(ada=MINE, bob=COPY, carol=OTHER), given=[])
    assert pairs == [Pair(ID, "ada", "bob", 1.0)]


def test_a_copy_within_more_code_is_found():
    more = MINE + "\n\n" + OTHER.replace("choose_ranks", "tried_before")
    (pair,) = alike(class_of(ada=MINE, bob=more), given=[])
    assert pair.likeness == 1.0


def test_two_ways_to_the_same_end_are_no_pair():
    assert alike(class_of(ada=MINE, carol=OTHER), given=[], threshold=0.3) == []


def test_what_everybody_was_given_says_nothing():
    """The printed version and the model answer, pasted by two, are no sign of talk between them."""
    assert alike(class_of(ada=MINE, bob=COPY), given=[COPY]) == []


def test_what_many_have_says_nothing_and_a_pair_among_them_does():
    crowd = {f"learner {n}": MINE for n in range(6)}
    assert alike(class_of(**crowd, ada=OTHER), given=[]) == []
    (pair,) = alike(class_of(**crowd, ada=OTHER, bob=OTHER), given=[])
    assert {pair.first, pair.second} == {"ada", "bob"}


def test_an_answer_of_two_lines_has_one_way_to_be_written():
    assert alike(class_of(ada=SHORT, bob=SHORT), given=[], threshold=0.01) == []


def test_one_changed_line_costs_its_share():
    changed = MINE.replace("spectrum[ranks[index]] / price", "spectrum[ranks[index]:].sum()")
    (pair,) = alike(class_of(ada=MINE, bob=changed), given=[], threshold=0.5)
    assert 0.6 < pair.likeness < 1
    assert alike(class_of(ada=MINE, bob=changed), given=[], threshold=1.0) == []


@any_of(st.permutations(["alpha", "beta", "gamma", "delta", "eps", "zeta", "eta", "theta"]))
@settings(max_examples=20, deadline=None)
def test_no_renaming_of_variables_changes_a_tree(names):
    old = ["matrices", "budget", "spectra", "ranks", "spent", "gains", "price", "best"]
    renamed = MINE
    for before, after in zip(old, names, strict=True):
        renamed = re.sub(rf"\b{before}\b", after, renamed)
    assert subtrees(renamed) == subtrees(MINE)
    assert subtrees(MINE.replace("np.linalg", "torch.linalg")) != subtrees(MINE)


@pytest.mark.parametrize(
    "source", ["", "def f(:", "x = " + "(" * 5000, "a" * 10**6, "1" + "+1" * 50_000, "\0", "\ud800"]
)
@pytest.mark.attack("files")
def test_hostile_code_is_no_code(source):
    assert alike(class_of(ada=source, bob=source), given=[source]) == []


@pytest.mark.parametrize("threshold", [0, -1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_named(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        alike({}, [], threshold)


@pytest.mark.attack("pages")
def test_the_page_shows_both_escaped_and_accuses_nobody():
    evil = MINE.replace("True", "'<script>alert(1)</script>'")
    answers = class_of(**{"ada<img src=x>": evil, "bob": evil})
    page = similarity_page("Lab 06", alike(answers, []), answers)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "100 % alike" in page
    assert "Alike is not copied" in page
    assert "No two answers" in similarity_page("Lab 06", [], {})


def test_the_command_reads_a_class_and_leaves_out_the_courses_own_code(tmp_path):
    place = tmp_path / "class"
    place.mkdir()
    about = {"grade": False, "locked": False, "schema_version": 3, "solution": True, "task": False}
    notebook = json.loads((ROOT / "solutions" / "06_low_rank.ipynb").read_text(encoding="utf-8"))
    model = next(
        "".join(c["source"])
        for c in notebook["cells"]
        if c["cell_type"] == "code" and "def choose_ranks" in "".join(c["source"])
    )
    for name, source in {"ada": MINE, "bob": COPY, "dan": model, "eve": model}.items():
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["nbgrader"] = {**about, "grade_id": "low_rank-choose_ranks"}
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), place / f"{name}.ipynb")
    out = tmp_path / "pairs.html"
    done = CliRunner().invoke(app, ["similar", str(place), "--lab", "06", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "4 learners, 1 pairs to look at" in done.output
    page = out.read_text(encoding="utf-8")
    assert "<b>ada</b>" in page
    assert "<b>dan</b>" not in page
    broken = CliRunner().invoke(app, ["similar", "nowhere", "--lab", "06", "--out", str(out)])
    assert broken.exit_code == 2
    assert "not compared" in broken.output


def test_a_file_that_is_no_page_of_pairs_is_not_replaced(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ada.ipynb").write_text("{}")
    marks = tmp_path / "marks.csv"
    marks.write_text("learner,points\n")
    asked = ["similar", str(tmp_path / "in"), "--lab", "12", "--out", str(marks)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert "is no page of pairs: give another --out" in done.output
    assert marks.read_text() == "learner,points\n"
