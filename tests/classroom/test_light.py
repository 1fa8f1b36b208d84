"""The check where there is NumPy and nothing else: it says what the check of a lab says."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compresslab.classroom import compare, light, light_package, light_pages
from compresslab.classroom.exercises import EXERCISES
from compresslab.classroom.judge import judge
from compresslab.classroom.light_pages import LABS, in_language, light_page
from compresslab.classroom.release import read_solution
from compresslab.classroom.so_far import so_far
from compresslab.language import LANGUAGES

ROOT = Path(__file__).parents[2]
SCRIPTS = [p for p in sorted((ROOT / "solutions").glob("[0-9]*.py")) if p.stem[:2] in LABS]
IDS = light.ids()


@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    """Nothing is added to what the reader of these tests has done."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(path))
    return path


def test_there_are_more_than_ten_in_six_labs():
    assert len(IDS) > 10
    assert len({id.partition(".")[0] for id in IDS}) == len(LABS)


@pytest.mark.parametrize("id", IDS)
def test_the_record_is_that_of_the_exercise(id):
    committed = (light.RECORDED / f"{id}.json").read_text(encoding="utf-8")
    made = light.record(EXERCISES[id])
    assert light.agrees(json.loads(committed), json.loads(made), light.CLOSE), "run `make release`"


def test_a_record_that_says_something_else_does_not_agree():
    text = light.record(EXERCISES["low_rank.lora_output"])
    for change in ("title", "tolerance", "arguments"):
        other = json.loads(text)
        other[change] = other["cases"]
        assert not light.agrees(json.loads(text), other, light.CLOSE)
    other = json.loads(text)
    value = light.of_json(other["expected"][0]["value"])
    for factor, same in ((1 + 1e-6, True), (1.01, False)):
        other["expected"][0]["value"] = light.to_json((value * factor).astype(value.dtype))
        assert light.agrees(json.loads(text), other, light.CLOSE) == same


@np.errstate(all="ignore")
@pytest.mark.parametrize("id", IDS)
def test_right_and_wrong_answers_get_the_verdict_of_the_lab(id):
    exercise, recorded = EXERCISES[id], light.read(id)
    assert light.check(exercise.reference, id).points == exercise.points
    for mistake in exercise.mistakes:
        for form in mistake.forms:
            full, told = judge(form, exercise), light.check(form, id)
            assert (told.status, told.mistake, told.hint) == (full.status, full.mistake, full.hint)
            assert [head for head, _ in told.facts] == [head for head, _ in full.facts]
    stub = light.check(lambda *args: (_ for _ in ()).throw(NotImplementedError()), id)
    assert stub.status == "not done"
    assert stub.facts
    assert recorded.title == exercise.title


def test_what_was_passed_is_kept_and_counted(progress_file):
    all_of_them = len(IDS)
    assert f"0 of {all_of_them} exercises" in repr(so_far())
    exercise = EXERCISES["numbers.pack4"]
    light.check(exercise.reference, exercise.id)
    light.check(exercise.mistakes[0].forms[0], exercise.id)
    said = repr(so_far())
    assert f"1 of {all_of_them} exercises" in said
    assert f": {exercise.points:g} of " in said
    assert json.loads(progress_file.read_text(encoding="utf-8"))[exercise.id]["passed"]
    progress_file.write_text('{"numbers.pack4": {"passed": 1, "points": 1e9}}', encoding="utf-8")
    assert f": {exercise.points:g} of " in repr(so_far())
    for id in IDS:
        light.check(EXERCISES[id].reference, id)
    assert so_far().kind == "held"


def test_where_nothing_can_be_written_the_check_goes_on(monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "a file" / "progress.json"))
    exercise = EXERCISES["numbers.pack4"]
    assert light.check(exercise.reference, exercise.id).passed
    assert "0 of" in repr(so_far())


def test_what_is_said_in_the_browser_is_said_in_chinese(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_LANG", "zh")
    assert re.search("[\u4e00-\u9fff]", so_far().words)


def test_nothing_but_the_recorded_calls_is_known():
    exercise = light.read("numbers.pack4")
    with pytest.raises(ValueError, match="pack4 is known on its recorded cases only"):
        exercise.reference(np.zeros(999, np.uint8))


def test_an_unknown_exercise_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"id must be one of .*numbers\.pack4.*, got '\.\./terms'"):
        light.read("../terms")


def test_an_exercise_on_networks_is_refused():
    with pytest.raises(ValueError, match=r"ptq\.integer_layer is none"):
        light.record(EXERCISES["ptq.integer_layer"])


PLAIN = st.recursive(
    st.one_of(
        st.integers(),
        st.floats(),
        st.text(),
        st.none(),
        st.booleans(),
        hnp.arrays(
            hnp.floating_dtypes() | hnp.integer_dtypes() | hnp.boolean_dtypes(),
            hnp.array_shapes(min_dims=0, min_side=0),
        ),
        st.floats(width=32).map(np.float32),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(value=PLAIN)
def test_every_plain_value_comes_back_as_it_was(value):
    assert light.is_plain(value)
    again = light.of_json(json.loads(json.dumps(light.to_json(value))))
    assert type(again) is type(value)
    assert compare.identical(again, value)
    if isinstance(value, np.ndarray):
        assert (again.dtype, again.shape) == (value.dtype, value.shape)
        again[...] = 0  # it can be written to


# ---- pages ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_page_is_what_a_release_writes(script, language):
    lab = in_language(read_solution(script).lab, script.stem, language)
    page, found = light_page(lab, language)
    assert set(found) <= set(IDS)
    folder = ROOT / ("light" if language == "en" else f"light-{language}")
    committed = (folder / f"{script.stem}.ipynb").read_text(encoding="utf-8")
    assert committed == nbformat.writes(page) + "\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_a_chinese_page_has_the_same_code_and_no_english_paragraph(script):
    english, chinese = (
        nbformat.read(ROOT / folder / f"{script.stem}.ipynb", 4) for folder in ("light", "light-zh")
    )
    for one, other in zip(english.cells, chinese.cells, strict=True):
        assert (one.id, one.cell_type) == (other.id, other.cell_type)
        if one.cell_type == "code":
            assert one.source == other.source
        else:
            assert re.search("[\u4e00-\u9fff]", other.source)


WITHOUT_A_LANGUAGE = {
    k: v
    for k, v in os.environ.items()
    if k not in ("COMPRESSLAB_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
}
ALONE = """
import importlib.abc, io, json, sys

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"numpy", "polib", "compresslab"} and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
space = {}
for source in json.load(sys.stdin):
    if source.startswith("check("):
        result = eval(source, space)
        print(result.status, result.points)
        html = result._repr_html_()
    elif source.startswith("so_far("):
        print(eval(source, space))
        print(" ".join(html.split()))
    else:
        exec(source, space)
import compresslab
assert compresslab.__file__.startswith(sys.argv[1]), compresslab.__file__
assert not {"torch", "numba", "matplotlib"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of what a browser gets."""
    folder = tmp_path_factory.mktemp("light") / "package"
    light_package.write_package(folder)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "as it is"])
def test_it_runs_where_there_is_numpy_and_nothing_else(
    script, answers, language, package, tmp_path
):
    solution = read_solution(script)
    page, found = light_page(solution.solution if answers else solution.lab, language)
    # Languages are told apart by the folder that the page lies in.
    folder = tmp_path / ("light" if language == "en" else f"light-{language}")
    folder.mkdir()
    sources = [c.source for c in page.cells if c.cell_type == "code"]
    plain = sources[0].replace(
        "    await piplite", "    piplite"
    )  # the branch of a browser, not taken here
    run = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(ALONE), str(package)],
        input=json.dumps([plain, *sources[1:]]),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**WITHOUT_A_LANGUAGE, "COMPRESSLAB_PROGRESS": "progress.json"},
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *lines, said, html = run.stdout.splitlines()
    passed = len(found) if answers else 0
    message = f"{passed} of {len(IDS)} exercises in the browser are passed: "
    assert said.startswith(message) == (language == "en")
    assert bool(re.search("[\u4e00-\u9fff]", said)) == (language == "zh")
    assert bool(re.search("[\u4e00-\u9fff]", html)) == (language == "zh")
    stored = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    assert set(stored) == set(found)
    expected = [f"passed {EXERCISES[id].points:g}" for id in found]
    got = [" ".join([s, f"{float(p):g}"]) for s, p in (line.rsplit(" ", 1) for line in lines)]
    assert got == (expected if answers else ["not done 0"] * len(found))


def test_what_needs_torch_says_so_where_there_is_none():
    code = ALONE.replace("space = {}", "").partition("for source")[0] + textwrap.dedent(
        """
        try:
            from compresslab.classroom import check
        except ImportError as error:
            print(error)
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(ROOT)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=True,
    )
    assert "check needs" in run.stdout
    assert "which is not installed" in run.stdout


def test_the_experiment_in_front_of_a_section_is_left_out():
    text = "What came out.\n\n## 2 · Next\n\nAn idea.\n\n### Exercise 1 · It (1 point)"
    assert light_pages._task(text) == text.partition("\n\n")[2]
    assert light_pages._task("An idea.\n\n### Exercise 1") == "An idea.\n\n## Exercise 1"
