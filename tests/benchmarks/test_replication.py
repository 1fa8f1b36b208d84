"""Replication of findings: what counts as the same run, what stands, what a page says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.basis import claims_of
from benchmarks.claims import Outcome, Setting, missing, outcomes, settings

REPLICATED, JUDGED = 1, 10
"""Runs that every finding has at least, and from which on its margin must stand."""

LAB = """\
# %% [markdown]
# # Lab 77 · Sevens
#
# **You will** see.

# %%
from compresslab.claims import claim
lost = 0.25
claim("Seven is odd", True)
claim("It costs less than a point", 1 - lost, "points")
claim(f"{lost}: also", 1.0, "points", timed=True)
if lost:
    claim("Only with an extra", 2.0, "points")
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    path = tmp_path / "77_sevens.py"
    path.write_text(LAB, encoding="utf-8")
    monkeypatch.setattr(claims, "SOLUTIONS", tmp_path)
    monkeypatch.setattr(claims, "RECORDS", tmp_path / "records")
    claims.asked.cache_clear()
    return path


def entry(path, margins, seed=0, machine="a lamp, AVX2, 1 cores, Python 3, torch 2", **changes):
    said = [
        ("Seven is odd", True, None, False),
        ("It costs less than a point", margins, "points", False),
        ("0.25: also", margins, "points", True),
    ]
    found = [
        {
            "sentence": s,
            "margin": m,
            "unit": u,
            "holds": bool(m is True or m > 0),
            "timed": t,
            **claims.known(path, s),
        }
        for s, m, u, t in said
    ]
    base = {"seed": seed, "threads": 1, "isa": "native", "machine": machine}
    more = {"date": "2026-01-02", "seconds": 1.0, "errors": []}
    return base | more | {"claims": found} | changes


def test_ten_settings_have_seeds_threads_and_instruction_sets():
    chosen = settings(12)
    assert len(set(chosen)) == 12
    assert {s.threads for s in chosen} == {1, 2}
    assert {s.isa for s in chosen} == {"native", "AVX2"}
    assert len({s.seed for s in chosen}) >= 9
    assert {(s.threads, s.isa) for s in chosen if s.seed == 0} == {
        (1, "native"),
        (2, "native"),
        (1, "AVX2"),
    }
    assert settings(2) == chosen[:2]


def test_a_setting_reaches_the_lab_through_its_environment():
    environment = Setting(3, 2, "AVX2").environment()
    code = (
        "import torch; from compresslab.experiment import begin; print(begin(2), "
        "torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**claims.os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == "(3000, 3001) 2 AVX2"


FOUND = """\
from somewhere import train
size = 8
def cut(model):
    return model * size
def shown(sizes):
    return sizes
def note(history):
    history.append(0)
model = train(size)
history = []
small = cut(model)
sizes = [1, 2]
{more}
claim("It is small", 9 - small)
"""


def basis_with(more: str, code: str = FOUND) -> str:
    return next(basis for _, basis, _ in claims_of(code.format(more=more)))


@pytest.mark.parametrize(
    "more",
    [
        "# a comment",
        "print(small)",
        "from elsewhere import cut_",
        "shown(sizes)",
        "sizes = shown(sizes)",
        "guess = predict('how small?', small)",
        "guess.reveal(small)",
        "note(history)",
        "more, less = (small * n for n in [1, 2])",
        "largest = max(small, size)",
        "by_name = {'a': model}",
        "many = [small for small in sizes]",
        "f = lambda model: model",
        "def another(model):\n    return cut(model)",
        "for small_one in track(sizes):\n    sizes.append(small_one)",
        "check(cut)",
    ],
)
def test_a_finding_does_not_rest_on(more):
    assert basis_with(more) == basis_with("")


@pytest.mark.parametrize(
    "more",
    [
        "small = small + 1",
        "small += 1",
        "model.eval()",
        "model[0] = 1",
        "many = [(size := n) for n in sizes]",
        "many = [shown(model) for n in sizes]",
        "model.size = 1",
        "del model.size",
        "size //= 2",
        "shown(model)",
        "size = 9",
        "del small",
        "for small in sizes:\n    pass",
        "def cut(model):\n    return model",
        "with open(model) as small:\n    pass",
        "if sizes:\n    small = 3",
        "if (small := 3):\n    pass",
    ],
)
def test_a_finding_rests_on(more):
    assert basis_with(more) != basis_with("")


def test_a_function_rests_on_what_is_bound_before_its_call():
    code = "def f():\n    return late\nlate = {more}\nclaim('s', f())\n"
    assert basis_with("1", code) != basis_with("2", code)


def test_a_claim_in_a_loop_rests_on_the_loop():
    code = "for n in {more}:\n    claim('s', True)\n"
    assert basis_with("[1]", code) != basis_with("[2]", code)
    assert [guarded for _, _, guarded in claims_of(code.format(more="[1]"))] == [False]
    under = "if extra:\n    claim('s', 1)\nclaim('t', 1)\n"
    assert [guarded for _, _, guarded in claims_of(under)] == [True, False]


def test_thresholds_stay_what_they_are_and_experiments_make_a_finding_new(lab):
    before = claims.asked(lab)[1]
    for text, same in [
        (LAB.replace("Seven is odd", "Seven is not even").replace("# %%\n", "# %%\n# why\n"), True),
        (LAB.replace("lost = 0.25", "lost = 0.5"), False),
    ]:
        lab.write_text(text, encoding="utf-8")
        claims.asked.cache_clear()
        assert (claims.asked(lab)[1].basis == before.basis) is same
        assert claims.asked(lab)[0].basis


def test_what_is_recorded_is_not_run_again(lab):
    wanted = settings(2)
    assert missing("77", wanted, "here") == wanted
    claims.keep("77", entry(lab, 0.5, machine="here"))
    assert missing("77", wanted, "here") == wanted[1:]
    assert missing("77", wanted, "there") == wanted
    claims.asked.cache_clear()
    lab.write_text(LAB.replace("1 - lost", "2 - lost"), encoding="utf-8")  # another threshold
    assert missing("77", wanted, "here") == wanted


def test_a_run_takes_the_place_of_an_older_one_and_others_stay(lab):
    claims.keep("77", entry(lab, 0.5))
    claims.keep("77", entry(lab, 0.75))
    claims.keep("77", entry(lab, 0.25, seed=1))
    claims.keep("77", entry(lab, 0.25, machine="another, VNNI, 2 cores, Python 3, torch 2"))
    assert len(claims.read_runs("77")) == 3
    assert outcomes("77", claims.read_runs("77"))[1].margins == (0.75, 0.25, 0.25)


def test_margins_of_another_expression_or_another_code_do_not_count(lab):
    claims.keep("77", entry(lab, 0.5))
    older = entry(lab, 0.5, seed=1)
    for said in older["claims"]:
        said["basis"] = "older"
    claims.keep("77", older)
    assert len(outcomes("77", claims.read_runs("77"))[1].margins) == 1
    claims.asked.cache_clear()
    lab.write_text(LAB.replace("1 - lost", "2 - lost"), encoding="utf-8")
    said = [o.sentence for o in outcomes("77", claims.read_runs("77"))]
    assert said == ["Seven is odd", "0.25: also"]


def test_a_sentence_may_be_worded_anew(lab):
    claims.keep("77", entry(lab, 0.5))
    claims.asked.cache_clear()
    lab.write_text(LAB.replace("It costs less", "It will cost less"), encoding="utf-8")
    found = outcomes("77", claims.read_runs("77"))
    assert [(o.sentence, o.margins) for o in found][1] == ("It will cost less than a point", (0.5,))


@pytest.mark.parametrize(
    "margins,stands",
    [
        ((1.0, 1.0, 1.0), True),
        ((1.0, 1.2, 0.8), True),
        ((1.0, 1.9, 0.1), False),
        ((5.0, 5.0, -1e-3), False),
        ((0.5,), True),
    ],
)
def test_a_finding_stands_three_deviations_above_zero_and_never_failed(margins, stands):
    held = sum(m > 0 for m in margins)
    assert Outcome("77", "s", "points", False, "2026", margins, held).stands is stands


@pytest.mark.parametrize(
    "other,stands",
    [
        ((14.0, 14.1, 13.9, 14.0), True),
        ((1.0, 5.0, 0.1, 9.0), False),
        ((14.0,), True),
        ((0.1, 9.0, 5.0), False),
    ],
)
def test_two_kinds_of_processors_are_judged_by_themselves(other, stands):
    here = (3.0, 3.1, 2.9, 3.0)
    sets = ("VNNI",) * len(here) + ("AVX2",) * len(other)
    found = Outcome("77", "s", "dB", False, "2026", here + other, len(here + other), sets, sets)
    assert found.mean < 3 * found.sd
    assert found.stands is stands


def test_the_page_and_the_table_say_what_came_out(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "labs", lambda: ["77"])
    for seed, margin in enumerate((0.5, 0.6, -0.1)):
        claims.keep("77", entry(lab, margin, seed))
    page, table = tmp_path / "findings.md", tmp_path / "findings.csv"
    claims.write_pages(page, table)
    text = page.read_text(encoding="utf-8")
    assert "## Lab 77 · Sevens" in text
    assert "| Seven is odd | 3 of 3 | exact | 2026-01-02 |" in text
    expected = "| It costs less than a point (!) | 2 of 3 | 0.333 ± 0.38 points | 2026-01-02 |"
    assert expected in text
    assert "| finding about time | AVX2 |" in text
    assert "| 0.25: also | 2 of 3; 0.33 ± 0.38 points |" in text
    assert "2 findings that rest on no clock; 1 of them" in text
    found = claims.outcomes("77", claims.read_runs("77"))
    read = __import__("compresslab.claims").claims.findings(table)
    assert [(f.runs, f.held) for f in read.values()] == [(3, o.held) for o in found]


def test_a_lab_is_run_past_errors_and_its_claims_are_kept(lab):
    lab.write_text(LAB + "\n# %%\n1 / 0\n\n# %%\nclaim('Seven is odd', False)\n", encoding="utf-8")
    claims.asked.cache_clear()
    found = claims.run("77", Setting(1))
    assert found["errors"] == ["ZeroDivisionError: division by zero"]
    assert [c["holds"] for c in found["claims"]] == [True, True, True, True, False]
    assert (
        found["claims"][1]["expression"]
        == claims.known(lab, "It costs less than a point")["expression"]
    )
    assert found["seed"] == 1
    json.dumps(found)


# ---- what is committed ---------------------------------------------------------------------------
def test_the_committed_page_is_the_one_of_the_records(tmp_path):
    page, table = tmp_path / "findings.md", tmp_path / "findings.csv"
    claims.write_pages(page, table)
    hint = "run `python -m benchmarks.claims --page-only`"
    assert claims.PAGE.read_text("utf-8") == page.read_text("utf-8"), hint
    assert claims.FINDINGS.read_text("utf-8") == table.read_text("utf-8"), hint


@pytest.mark.parametrize("name", claims.labs())
def test_every_finding_without_a_clock_was_replicated_and_never_failed(name):
    runs = claims.read_runs(name)
    found = [o for o in outcomes(name, runs) if not o.timed]
    path = claims.solution(name)
    for asked in claims.asked(path):
        seen = [o for o in outcomes(name, runs) if asked.sentence.fullmatch(o.sentence)]
        assert seen or not asked.everywhere, f"never run: {asked.sentence.pattern}"
    for outcome in found:
        runs = len(outcome.margins)
        assert runs >= REPLICATED, f"only {runs} runs: {outcome.sentence}"
        assert outcome.held == runs, f"failed in {runs - outcome.held}: {outcome.sentence}"
        # A standard deviation of fewer runs says little.
        if runs >= JUDGED:
            assert outcome.stands, f"{outcome.mean} ± {outcome.sd}: {outcome.sentence}"


def test_findings_lie_in_the_package():
    assert Path(claims.FINDINGS).parent.name == "compresslab"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="binds to cores on Linux only")
def test_runs_at_once_hold_cores_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(claims.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    with claims.own_core(True) as one:
        with claims.own_core(True) as two, claims.own_core(True) as three:
            assert (one, two, three) == (3, 5, None)
        with claims.own_core(True) as again, claims.own_core(False) as unwanted:
            assert (again, unwanted) == (5, None)
