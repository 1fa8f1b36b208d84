"""What a learner sees: verdicts, hints, their own line, adoption, progress."""

import _thread
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from compresslab.classroom import adopt, check, checking, compare
from compresslab.classroom.checking import is_the_librarys
from compresslab.classroom.complaints import bit_facts
from compresslab.classroom.exercises import EXERCISES, exercise
from compresslab.classroom.exercises.measuring import parameter_bytes
from compresslab.classroom.judge import judge
from compresslab.classroom.progress import earned, progress_file, read, record, summary
from compresslab.numerics import entropy

ID = "measuring.parameter_bytes"


def right(parameters, bits):
    return -(-parameters * bits // 8)


def rounded_down(parameters, bits):
    return parameters * bits // 8


def todo(parameters, bits):
    raise NotImplementedError("not done yet")


def breaks(parameters, bits):
    eight = bits - bits
    return parameters // eight


# ---- verdicts ------------------------------------------------------------------------------------
def test_a_right_answer_gets_its_points():
    result = check(right, ID)
    assert result.passed
    assert "1 of 1 points" in str(result)


def test_a_mistake_is_named_with_the_smallest_failing_case_and_a_hint():
    result = check(rounded_down, ID)
    text = str(result)
    assert "3 weights of 3 bits" in text
    assert "expected: 2" in text
    assert "got: 1" in text
    assert "round up" in result.hint


@pytest.mark.parametrize("name", ["isclose", "allclose", "array_equal", "all"])
def test_an_answer_that_changes_what_compares_does_not_judge_itself(name, monkeypatch):
    """By monkeypatch, so that the change ends with the test; an answer's would stay."""
    always = (
        (lambda *a, **o: np.ones(np.shape(a[0]), bool))
        if name == "isclose"
        else lambda *a, **o: True
    )

    def teach(*_arguments):
        monkeypatch.setattr(np, name, always)
        return [0.0] * len(_arguments[2])

    assert check(teach, "distill.teach").points == 0


def test_a_stub_is_not_done_yet():
    assert "not done yet (about 1 line)" in str(check(todo, ID))


@pytest.mark.parametrize("first", [True, False], ids=["above", "below"])
def test_the_stubs_line_left_beside_an_answer_is_told(first):
    if first:

        def answer(parameters, bits):
            """Bytes."""
            raise NotImplementedError("not done yet")
            return parameters * bits
    else:

        def answer(parameters, bits):
            size = parameters * bits  # noqa: F841
            raise NotImplementedError("not done yet")

    said = str(check(answer, ID))
    assert "not done yet (about 1 line)" in said
    assert "still stands in your function" in said
    assert "still stands" not in str(check(todo, ID))
    assert "still stands" not in str(check(eval("lambda *a: todo()", {"todo": todo}), ID))


def test_an_error_is_shown_with_the_learners_own_line():
    result = check(breaks, ID)
    assert result.status == "error"
    facts = dict(result.facts)
    assert facts["your line"].endswith("return parameters // eight")
    assert "ZeroDivisionError" in facts["error"]


def test_an_error_deep_inside_a_library_is_shown_where_the_learner_called_it():
    def deep(bits):
        return torch.zeros(2, 3) @ torch.zeros(2, 3)

    facts = dict(check(deep, "numbers.to_bf16_bits").facts)
    assert facts["your line"].endswith("return torch.zeros(2, 3) @ torch.zeros(2, 3)")


def test_the_box_escapes_what_it_shows():
    def shouting(parameters, bits):
        raise ValueError("<script>alert(1)</script>")

    page = check(shouting, ID)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match="id must be an exercise of the course, got 'nothing'"):
        check(right, "nothing")


def test_a_mistake_made_only_now_and_then_is_still_recognised():
    def sometimes(parameters, bits):
        return rounded_down(parameters, bits) if bits == 3 else right(parameters, bits)

    assert check(sometimes, ID).mistake == "rounded down"


def test_a_mistake_seen_on_most_failing_cases_is_offered_as_a_guess():
    def mostly(parameters, bits):
        wrong = rounded_down(parameters, bits)
        return wrong if parameters != 101 else 7

    result = check(mostly, ID)
    assert result.mistake == "rounded down"
    assert result.hint.startswith("Perhaps this:") or "round up" in result.hint


def test_an_answer_that_must_be_compiled_has_to_be():
    def plain(x, inverse, zero, low, high, codes):
        codes[...] = np.clip(np.rint(x * inverse) + zero, low, high).astype(np.int8)

    result = check(plain, "numbers.quantize_loop")
    assert not result.passed
    assert "@njit" in result.hint


TENSORS = {
    "sparse": torch.eye(2).to_sparse(),
    "sparse_csr": torch.eye(2).to_sparse_csr(),
    "meta": torch.zeros(2, 2, device="meta"),
    "quantized": torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8),
    "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", TENSORS)
def test_a_tensor_that_is_not_dense_is_named(form):
    text = compare.difference(TENSORS[form], torch.eye(2))
    assert form in text
    assert form in compare.show(TENSORS[form])


def test_a_right_tensor_is_right_whatever_bit_says_so():
    negative = torch.tensor([1 + 2j]).conj().imag
    assert negative.is_neg()
    assert compare.difference(negative, torch.tensor([-2.0])) is None
    assert compare.difference(torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])) is None


def test_an_absurd_number_is_shown_by_its_size():
    assert "digits" in str(check(lambda parameters, bits: 10**9000, ID))


# ---- bits ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer,id,expected,got",
    [
        (
            lambda bits: bits >> 16,
            "numbers.to_bf16_bits",
            "0100_0000_0000_0000",
            "0011_1111_1111_1111",
        ),
        (lambda codes: codes[0::2] * np.uint8(17), "numbers.pack4", "0000_1001", "1001_1001"),
    ],
)
def test_an_exercise_about_bits_shows_bits(answer, id, expected, got):
    facts = dict(check(answer, id).facts)
    assert (facts["expected, in bits"], facts["got, in bits"]) == (expected, got)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=9), st.integers(1, 40))
def test_the_first_number_that_differs_is_shown_by_its_lowest_bits(numbers, digits):
    wanted = np.array(numbers, np.int64)
    for at in range(len(numbers)):
        other = wanted.copy()
        other[at:] ^= 1
        shown = [
            text.replace("_", "") for _, text in bit_facts(wanted, torch.from_numpy(other), digits)
        ]
        assert shown == [np.binary_repr(v % 2**digits, digits) for v in (wanted[at], other[at])]


@pytest.mark.parametrize(
    "got",
    [
        None,
        3,
        "bits",
        np.zeros(3, np.int64),
        np.zeros(2),
        np.ones(2, bool),
        torch.zeros(2).to_sparse(),
    ],
)
def test_what_has_no_bits_shows_none(got):
    assert bit_facts(np.array([1, 2]), got, 8) == []
    assert bit_facts(np.array([1, 2]), np.array([1, 3]), 0) == []


# ---- adoption ------------------------------------------------------------------------------------
def test_a_passed_answer_is_used(capsys):
    assert adopt(right, ID) is right
    assert "your right" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [todo, rounded_down, breaks])
def test_otherwise_the_library_goes_on_and_says_so(answer, capsys):
    assert adopt(answer, ID) is parameter_bytes
    assert "the library's own parameter_bytes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "function,id",
    [
        (functools.partial(exercise("combine.gaps").reference), "combine.gaps"),
        (functools.partial(functools.partial(exercise("combine.gaps").reference)), "combine.gaps"),
        (functools.wraps(exercise("combine.gaps").reference)(lambda k, b: k), "combine.gaps"),
        (entropy.code_lengths, "combine.code_lengths"),
        (functools.partial(entropy.code_lengths), "combine.code_lengths"),
    ],
)
def test_the_librarys_function_in_a_wrapper_or_from_its_module_is_the_librarys(function, id):
    assert is_the_librarys(function, id)


def test_a_function_of_ones_own_is_not_the_librarys():
    def gaps(keep, bits):
        return keep

    assert not is_the_librarys(gaps, "combine.gaps")
    assert not is_the_librarys(functools.partial(gaps), "combine.gaps")
    assert not is_the_librarys(np.add, "combine.gaps")


@pytest.mark.parametrize("id", [ID, "numbers.quantize_loop", "combine.code_lengths"])
def test_the_librarys_function_earns_nothing(id, capsys):
    adopted = adopt(todo, id)
    result = check(adopted, id)
    assert not result.passed
    assert "library's own" in str(result)
    assert id not in read()
    assert adopt(adopted, id) is adopted
    assert "the library's own" in capsys.readouterr().out.splitlines()[-1]


# ---- progress ------------------------------------------------------------------------------------
def test_progress_remembers_tries_and_never_forgets_a_pass():
    check(todo, ID)
    check(rounded_down, ID)
    said = {"tries": 1, "passed": False, "points": 0, "of": 1, "last": "rounded down"}
    assert read()[ID] == said
    check(right, ID)
    check(breaks, ID)
    points = exercise(ID).points
    assert read()[ID] == said | {"tries": 3, "passed": True, "points": points, "last": "error"}
    assert points == said["of"]
    line = next(line for line in str(summary()).splitlines() if line.startswith(ID))
    assert "passed" in line
    assert "1 / 1" in line


def test_two_notebooks_at_once_lose_nothing():
    ids = list(EXERCISES)[:12]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda id: record(id, "passed", None), ids))
    assert sorted(read()) == sorted(ids)


def test_two_processes_at_once_lose_nothing():
    code = (
        "from compresslab.classroom.progress import earned, record\n"
        "import sys\n"
        "for _ in range(10): record(sys.argv[1], 'failed', None)"
    )
    ids = list(EXERCISES)[:2]
    started = [subprocess.Popen([sys.executable, "-c", code, id]) for id in ids]
    assert [process.wait(60) for process in started] == [0, 0]
    assert [read()[id]["tries"] for id in ids] == [10, 10]


def test_a_file_that_may_not_be_read_is_left_alone(monkeypatch):
    progress_file().write_text("{}")

    def refuse(*_arguments, **_options):
        raise PermissionError("no")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_text", refuse)
        check(right, ID)
    assert progress_file().read_text() == "{}"


def test_a_count_that_is_no_number_counts_anew():
    progress_file().write_text(f'{{"{ID}": {{"tries": "x", "passed": true}}}}')
    check(rounded_down, ID)
    assert read()[ID] == {"tries": 1, "passed": True, "last": "rounded down"}


def test_a_pass_from_before_points_were_kept_has_all_of_them():
    progress_file().write_text(f'{{"{ID}": {{"tries": 1, "passed": true}}}}')
    check(rounded_down, ID)
    assert earned(read()[ID], exercise(ID).points) == exercise(ID).points


@pytest.mark.parametrize("points", ["1", True, -1, 99, None, [1]])
def test_damaged_points_are_not_believed(points):
    assert earned({"points": points}, exercise(ID).points) == 0
    assert earned({"points": points, "passed": True}, exercise(ID).points) == exercise(ID).points


def test_half_of_the_points_count():
    assert earned({"points": 0.5}, exercise(ID).points) == 0.5


@pytest.mark.parametrize(
    "stored, most, now",
    [
        ({"points": 4, "passed": True}, 16, 16),  # a build, all stages
        ({"points": 3, "passed": False}, 16, 12),  # three of its four
        ({"points": 3, "passed": True}, 12, 12),  # an open exercise, gold
        ({"points": 1, "passed": True}, 12, 4),  # bronze
        ({"points": 3, "passed": True}, 6, 6),
        ({"points": 2, "passed": False}, 3, 2),  # one that gives what it always gave
        ({"points": 8, "of": 16, "passed": False}, 16, 8),
        ({"points": 2, "of": 4, "passed": False}, 16, 8),  # and if it changes again
        ({"points": 9, "passed": False}, 16, 0),  # no such points were ever given
        ({"points": 2, "of": "x", "passed": False}, 3, 2),
        ({"points": 0, "of": 0, "passed": False}, 3, 0),
    ],
)
def test_points_from_before_an_exercise_gave_more_are_the_same_part_of_it(stored, most, now):
    assert earned(stored, most) == pytest.approx(now)


def test_a_better_answer_later_counts_from_what_was_earned_before():
    progress_file().write_text('{"low_rank.lora_layer": {"points": 3, "passed": false}}')
    record("low_rank.lora_layer", "failed", None, 6, 12)
    assert earned(read()["low_rank.lora_layer"], 12) == 9
    record("low_rank.lora_layer", "passed", None, 12, 12)
    assert earned(read()["low_rank.lora_layer"], 12) == 12


def test_a_second_damaged_file_does_not_replace_the_first():
    for text in ("{first", "{second"):
        progress_file().write_text(text)
        with pytest.warns(UserWarning, match="could not be read"):
            check(right, ID)
    found = sorted(progress_file().parent.glob("*.damaged*.json"))
    assert [p.read_text() for p in found] == ["{second", "{first"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "\x00\xff"])
def test_a_damaged_file_is_put_aside_not_lost(content):
    progress_file().write_text(content, encoding="latin-1")
    with pytest.warns(UserWarning, match="could not be read"):
        check(right, ID)
    assert read()[ID]["passed"]
    aside = progress_file().with_suffix(".damaged.json")
    assert aside.read_text(encoding="latin-1") == content


def test_without_a_place_to_write_the_check_still_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path / "file" / "progress.json"))
    assert check(right, ID).passed


def test_the_file_is_plain_json_without_leftovers():
    check(right, ID)
    assert json.loads(progress_file().read_text(encoding="utf-8"))[ID]["passed"] is True
    there = [name for name in os.listdir(progress_file().parent) if not name.startswith(".")]
    assert there == ["progress.json"]


# ---- comparing -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "got,expected,words",
    [
        (1.0, 1, "expected an integer, got float"),
        (True, 1, "expected an integer, got bool"),
        (1, True, "expected True or False"),
        ("1", 1.0, "expected a number, got str"),
        (None, 1.0, r"got None \(no return\?\)"),
        (np.zeros(2), torch.zeros(2), "expected a tensor, got an array"),
        (np.zeros(2), np.zeros(2, np.float32), "expected dtype float32, got float64"),
        (np.zeros((2, 1)), np.zeros(2), r"expected shape \(2,\), got \(2, 1\)"),
        (np.array([1, 2]), np.array([1, 3]), r"1 of 2 values differ, the first at \[1\]"),
        ((1,), (1, 2), "expected 2 values, got 1"),
        ((1, 3), (1, 2), "value 2 of 2"),
        ("memory", "compute", "expected 'compute'"),
        (float("nan"), 1.0, "got nan"),
    ],
)
def test_differences_are_told_in_words(got, expected, words):
    import re

    assert re.search(words, compare.difference(got, expected))


@given(st.lists(st.floats(width=32), max_size=20))
def test_a_value_equals_itself_even_with_nan(values):
    x = np.array(values, np.float32)
    assert compare.difference(x.copy(), x) is None
    assert compare.identical((x, 1, "a"), compare.fresh((x, 1, "a")))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.data())
def test_one_other_value_is_a_difference(values, data):
    x = np.array(values)
    other = x.copy()
    other[data.draw(st.integers(0, len(values) - 1))] += 1
    assert compare.difference(other, x, 1e-9) is not None
    assert not compare.identical(other, x)


def test_an_index_out_of_range_in_compiled_code_is_an_error_and_not_a_crash():
    @njit
    def answer(x, zero_point, weight, bias):
        acc = np.zeros((x.shape[0], weight.shape[0]), np.int32)
        for n in range(weight.shape[1] + 1000):
            acc[0, n] = 1
        return acc

    result = judge(answer, exercise("ptq.integer_matmul"))
    assert result.status == "error"
    assert "IndexError" in str(result)


def test_an_endless_loop_that_is_interrupted_names_its_line():
    def endless(parameters, bits):
        while True:
            parameters += 1

    # A process in the background may have been started with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ring = threading.Timer(0.5, _thread.interrupt_main)
        ring.start()
        result = check(endless, ID)
        ring.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.status == "error"
    facts = dict(result.facts)
    assert "you stopped it after" in facts["error"]
    assert "parameters += 1" in facts["your line"] or "while True" in facts["your line"]


def test_a_check_that_takes_long_says_so_once_and_a_quick_one_says_nothing(capsys):
    with checking.told_if_long(0.05):
        time.sleep(0.3)
    assert capsys.readouterr().out.count("Still running") == 1
    with checking.told_if_long(5):
        pass
    with pytest.raises(KeyboardInterrupt), checking.told_if_long(0.2):
        raise KeyboardInterrupt
    time.sleep(0.4)
    assert capsys.readouterr().out == ""


def test_check_watches_the_time(capsys, monkeypatch):
    monkeypatch.setattr(checking, "told_if_long", lambda: contextlib.nullcontext(print("watched")))
    check(lambda *a: None, "numbers.affine_qparams")
    assert capsys.readouterr().out.startswith("watched")
