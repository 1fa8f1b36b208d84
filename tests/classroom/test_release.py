"""Solutions become labs; whatever could leak an answer or break a lab stops the release."""

import nbformat
import pytest

from compresslab.classroom.progress import read
from compresslab.classroom.release import ReleaseError, read_solution, release, stub

ID = "measuring.parameter_bytes"
GRADE_ID = ID.replace(".", "-")
ANSWER = f'# %% nbgrader={{"grade": false, "grade_id": "{GRADE_ID}", "solution": true}}\n'
CHECK = f'# %% nbgrader={{"grade": true, "grade_id": "{GRADE_ID}-check", "points": 1, "solution": false}}\n'
BODY = """def parameter_bytes(parameters, bits):
    ### BEGIN SOLUTION
    secret = (parameters * bits + 7) // 8
    return secret
    ### END SOLUTION
"""
CALL = f'from compresslab.classroom import check\ncheck(parameter_bytes, "{ID}")\n'
GOOD = f"# %% [markdown]\n# # A lab\n\n{ANSWER}{BODY}\n{CHECK}{CALL}"


def write(folder, text, name="00_test.py"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_lab_has_no_answer_no_output_and_ids_by_rule(tmp_path):
    lab = read_solution(write(tmp_path, GOOD)).lab
    text = nbformat.writes(lab)
    assert "secret" not in text
    assert "SOLUTION" not in text
    assert 'raise NotImplementedError(\\"not done yet\\")' in text
    assert [c.id for c in lab.cells] == [
        "cell-001",
        ID.replace(".", "-"),
        f"{ID}-check".replace(".", "-"),
    ]
    nbformat.validate(lab)


def test_code_around_the_region_stays():
    before = [
        "def f(x):",
        "    y = 1",
        "    ### BEGIN SOLUTION",
        "    y = 2",
        "    ### END SOLUTION",
        "    return y",
    ]
    after = [
        "def f(x):",
        "    y = 1",
        "    # your code here",
        '    raise NotImplementedError("not done yet")',
        "    return y",
    ]
    assert stub("\n".join(before)).splitlines() == after


def test_released_notebooks_run_and_an_unchanged_solution_changes_nothing(tmp_path):
    solutions, labs = tmp_path / "solutions", tmp_path / "labs"
    write(solutions, GOOD)
    changed = release(solutions, labs)
    assert sorted(p.name for p in changed) == ["00_test.ipynb", "00_test.ipynb"]
    assert read() == {}, "an author's run is no learner's progress"
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.ipynb")}
    assert release(solutions, labs) == []
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.ipynb")} == before
    executed = nbformat.read(solutions / "00_test.ipynb", as_version=4)
    assert "✔" in executed.cells[2].outputs[0]["data"]["text/plain"]
    assert "execution" not in executed.cells[2].metadata


def test_other_words_keep_what_was_executed_and_other_code_does_not(tmp_path, monkeypatch):
    solutions, labs = tmp_path / "solutions", tmp_path / "labs"
    write(solutions, GOOD)
    release(solutions, labs)
    before = nbformat.read(solutions / "00_test.ipynb", as_version=4)
    executed = []
    monkeypatch.setattr(
        "compresslab.classroom.release.execute", lambda lab, folder: executed.append(lab) or before
    )
    write(solutions, GOOD + "\n# %% [markdown]\n# Other words.\n")
    assert len(release(solutions, labs)) == 2
    after = nbformat.read(solutions / "00_test.ipynb", as_version=4)
    assert executed == []
    assert after.cells[-1].source == "Other words."
    assert [c.outputs for c in after.cells if c.cell_type == "code"] == [
        c.outputs for c in before.cells if c.cell_type == "code"
    ]
    write(solutions, GOOD + "\n# %%\nprint(1)\n")
    release(solutions, labs)
    assert len(executed) == 1


def test_a_model_answer_that_fails_its_check_stops_the_release(tmp_path):
    write(tmp_path / "s", GOOD.replace("+ 7) // 8", ") // 8"))
    with pytest.raises(ReleaseError, match="cell 3: the model answer fails its check"):
        release(tmp_path / "s", tmp_path / "labs")


@pytest.mark.parametrize(
    "text,words",
    [
        (GOOD.replace("    ### END SOLUTION\n", ""), "cell 2: ### BEGIN SOLUTION is never closed"),
        (
            GOOD.replace("    ### BEGIN SOLUTION\n", ""),
            "cell 2, line 4: ### END SOLUTION without a",
        ),
        (
            GOOD.replace("    return secret", "    ### BEGIN SOLUTION\n    return secret"),
            "cell 2, line 4: ### BEGIN SOLUTION inside an open region",
        ),
        (
            GOOD.replace("### BEGIN SOLUTION", "### BEGIN SOLUTION here"),
            "a marker must stand alone",
        ),
        (
            GOOD.replace("    ### BEGIN SOLUTION\n", "").replace("    ### END SOLUTION\n", ""),
            "cell 2: answer cell 'measuring-parameter_bytes' has no answer region",
        ),
        (
            GOOD.replace(GRADE_ID, "measuring-nothing"),
            "cell 2: the library knows no exercise 'measuring-nothing'",
        ),
        (GOOD.replace('"points": 1', '"points": 9'), "gives 9 points, the exercise 1"),
        (
            GOOD.replace(GRADE_ID, ID),
            "cell 2: grade_id must be of letters, digits, _ and -, got 'measuring.parameter_bytes'",
        ),
        (GOOD + "\n" + ANSWER + BODY, "cell 4: grade_id .* was used by cell 2"),
        (GOOD.replace(CHECK + CALL, ""), "has no cell 'measuring-parameter_bytes-check'"),
        (
            GOOD + "\n# %%\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n",
            "cell 4: an answer region outside",
        ),
    ],
)
def test_what_is_wrong_is_named_by_file_and_cell(tmp_path, text, words):
    with pytest.raises(ReleaseError, match=words) as error:
        read_solution(write(tmp_path, text))
    assert "00_test.py" in str(error.value)


def test_nothing_is_written_when_one_solution_is_wrong(tmp_path):
    write(tmp_path / "s", GOOD, "00_good.py")
    write(tmp_path / "s", GOOD.replace("    ### END SOLUTION\n", ""), "01_bad.py")
    with pytest.raises(ReleaseError):
        release(tmp_path / "s", tmp_path / "labs")
    assert not list(tmp_path.rglob("*.ipynb"))


def test_an_unknown_name_is_refused(tmp_path):
    write(tmp_path / "s", GOOD)
    with pytest.raises(ReleaseError, match="no solution named 99_none"):
        release(tmp_path / "s", tmp_path / "labs", only=["99_none"])
