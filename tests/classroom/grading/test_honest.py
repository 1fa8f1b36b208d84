"""Honest work in odd notebooks gets its points, and the report says what was odd."""

import json
import textwrap
import time

import pytest

from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading import submission
from compresslab.classroom.grading.grade import grade_exercise
from compresslab.classroom.grading.sandbox import MISSING, Limits, Sandbox, bubblewrap

pytestmark = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
LIMITS = Limits(wall=40, cpu=10)
ID = "combine.code_lengths"
STUB = '''
def code_lengths(counts):
    """Bits."""
    # your code here
    raise NotImplementedError("not done yet")
'''
RIGHT = """
def code_lengths(counts):
    bits = np.zeros(len(counts), dtype=int)
    heap = [(int(n), [s]) for s, n in enumerate(counts) if n]
    if len(heap) == 1:
        bits[heap[0][1]] = 1
    while len(heap) > 1:
        heap.sort()
        (few, one), (more, other) = heap.pop(0), heap.pop(0)
        bits[one + other] += 1
        heap.append((few + more, one + other))
    return bits
"""


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


def code(source, id=None, kind="code", name=None):
    about = {"nbgrader": {"grade_id": id.replace(".", "-"), "solution": True}} if id else {}
    cell = {"cell_type": kind, "source": textwrap.dedent(source), "metadata": about}
    return cell | ({"id": name} if name else {})


@pytest.fixture
def graded(sandbox, tmp_path):
    def run(*cells, id=ID, seed=5):
        cells = [
            code("import numpy as np\nimport torch\nimport numba\nfrom numba import njit"),
            *cells,
        ]
        path = tmp_path / "n.ipynb"
        path.write_text(json.dumps({"cells": cells}))
        wanted = {ID, id, "distill.soft_targets", "distill.distillation_loss"}
        found = submission.read(path, "ada", wanted)
        return grade_exercise(exercise(id), found, seed, sandbox, LIMITS)

    return run


# ---- cells ---------------------------------------------------------------------------------------
@pytest.mark.honest("right")
def test_an_answer_below_the_stub_is_found_by_its_name(graded):
    mark = graded(code(STUB, ID), code(RIGHT))
    assert mark.points == mark.out_of
    assert "found in another cell, by the function's name" in mark.message


@pytest.mark.honest("right")
def test_a_copy_of_the_stub_below_the_answer_takes_nothing_away(graded):
    mark = graded(code(RIGHT, ID), code(STUB, ID))
    assert (mark.points, mark.message) == (mark.out_of, "")


@pytest.mark.honest("right")
def test_lost_metadata_are_made_up_for_by_the_cells_id(graded):
    mark = graded(code(RIGHT, name="combine-code_lengths"))
    assert mark.points == mark.out_of
    assert "lost its metadata" in mark.message


@pytest.mark.parametrize("kind", ["code", "markdown", "raw"])
@pytest.mark.honest("right")
def test_lost_metadata_are_made_up_for_by_the_functions_name(graded, kind):
    mark = graded(code(RIGHT, kind=kind))
    assert mark.points == mark.out_of
    assert "by the function's name" in mark.message


ELSEWHERE = {
    "a line of magic below": [code(RIGHT + "\n%timeit code_lengths([1, 2])\n")],
    "a line of magic above": [code("%%time\n" + RIGHT)],
    "a line of shell above": [code("!pip install numba\n" + RIGHT)],
    "the stub left, magic below the answer": [
        code(STUB, ID),
        code(RIGHT + "\n%timeit code_lengths([1, 2])\n"),
    ],
    "indented": [code(textwrap.indent(RIGHT, "    "))],
    "in an if": [code("if True:\n" + textwrap.indent(RIGHT, "    "))],
    "a lambda": [
        code(RIGHT.replace("def code_lengths", "def mine")),
        code("code_lengths = lambda counts: mine(counts)"),
    ],
    "cached": [
        code("from functools import partial"),
        code(RIGHT.replace("def code_lengths", "def mine")),
        code("code_lengths = partial(mine)"),
    ],
    "another name for it, the stub left": [
        code(STUB, ID),
        code(RIGHT.replace("def code_lengths", "def mine") + "\ncode_lengths = mine\n"),
    ],
    "another name for it, in a cell of its own": [
        code(STUB, ID),
        code(RIGHT.replace("def code_lengths", "def mine")),
        code("code_lengths = mine"),
    ],
    "an object that can be called, the stub left": [
        code(STUB, ID),
        code(
            "class Mine:\n"
            + textwrap.indent(RIGHT.replace("def code_lengths(", "def __call__(self, "), "    ")
            + "\n\ncode_lengths = Mine()\n"
        ),
    ],
    "a fence that is never closed": [code(f"My answer:\n```python\n{RIGHT}", kind="markdown")],
    "beside a fence that is no Python": [
        code(f"```\nit gives: 1 2 2\n```\nby\n~~~python\n{RIGHT}~~~\n", kind="markdown")
    ],
    "in two fences": [
        code(f"```python\nONE = 1\n```\nand\n```python\n{RIGHT}```\n", kind="markdown")
    ],
    "between fences": [code(f"My answer:\n```python\n{RIGHT}\n```\nDone.", kind="markdown")],
}


@pytest.mark.honest("right")
@pytest.mark.parametrize("cells", ELSEWHERE.values(), ids=ELSEWHERE)
def test_an_answer_without_metadata_is_found_in_any_company(graded, cells):
    mark = graded(*cells)
    assert mark.points == mark.out_of


HELPED = {
    "a function": (
        "def merged(a, b):\n    return a + b\n",
        RIGHT.replace("one + other))", "merged(one, other)))"),
    ),
    "a constant": (
        "FIRST = 1\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = FIRST"),
    ),
    "one that needs another": (
        "ONE = 1\ndef first():\n    return ONE\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = first()"),
    ),
    "a table that is filled": (
        "TABLE = {}\nTABLE['one'] = 1\nTABLE['two'] = 2\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = TABLE['one']"),
    ),
    "a constant that is changed": (
        "ONE = 3\nONE -= 2\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = ONE"),
    ),
    "a table that a loop fills": (
        "TABLE = np.zeros(9, int)\nfor i in range(1, 9):\n    TABLE[i] = 1 + TABLE[i - 1] // 2\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = TABLE[1]"),
    ),
    "a list that grows": (
        "TABLE = []\nfor i in range(3):\n    if i:\n        TABLE.append(i)\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = TABLE[0]"),
    ),
    "a list that was appended to": (
        "TABLE = []\nTABLE.append(1)\nTABLE.extend([2, 3])\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = TABLE[0]"),
    ),
    "a function in an if": (
        "if True:\n    def single():\n        return 1\nelse:\n    single = None\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = single()"),
    ),
    "a function in a try": (
        "try:\n    from nowhere import single\nexcept ImportError:\n"
        "    def single():\n        return 1\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = single()"),
    ),
    "a constant in a with": (
        "import warnings\nwith warnings.catch_warnings():\n    ONE = 1\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = ONE"),
    ),
    "a compiled function": (
        "@njit\ndef single():\n    return 1\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = single()"),
    ),
    "beside something very deep": (
        "ONE = 1\ndeep = " + "+".join(["1"] * 900) + "\n",
        RIGHT.replace("bits[heap[0][1]] = 1", "bits[heap[0][1]] = ONE"),
    ),
    "an import in a try": (
        "try:\n    import heapq\nexcept ImportError:\n    heapq = None\n",
        RIGHT.replace("heap.sort()", "heapq.heapify(heap); heap.sort()"),
    ),
}


@pytest.mark.honest("right")
@pytest.mark.parametrize("helper,answer", HELPED.values(), ids=HELPED)
def test_what_stands_in_a_cell_of_its_own_is_there(graded, helper, answer):
    assert answer != RIGHT
    mark = graded(code(helper), code(answer, ID))
    assert mark.points == mark.out_of


@pytest.mark.honest("right")
@pytest.mark.parametrize(
    "line", ["await sleep(0)", "return 3", "import sys; sys.exit()", "exit()", "raise SystemExit"]
)
def test_a_line_beside_the_function_that_cannot_run_costs_nothing(graded, line):
    for answer in (f"{RIGHT}\n{line}\n", f"{line}\n{RIGHT}"):
        mark = graded(code(answer, ID))
        assert mark.points == mark.out_of


@pytest.mark.honest("right")
@pytest.mark.parametrize(
    "use", ["isinstance(counts, Table)", "class Mine(Table): pass", "issubclass(int, Table)"]
)
def test_a_type_of_the_librarys_may_be_asked_for(graded, use):
    answer = RIGHT.replace("    bits =", f"    {use}\n    bits =", 1)
    assert answer != RIGHT
    mark = graded(code("from compresslab.report import Table"), code(answer, ID))
    assert mark.points == mark.out_of


def test_a_mistake_in_python_is_not_called_shell(graded):
    mark = graded(code(RIGHT.replace("while len(heap) > 1:", "while len(heap) > 1"), ID))
    assert mark.points == 0
    assert "shell" not in mark.message
    assert "SyntaxError" in mark.message


def test_another_name_for_the_stub_is_no_answer(graded):
    mark = graded(
        code(STUB, ID), code(STUB.replace("code_lengths", "mine") + "\ncode_lengths = mine")
    )
    assert (mark.points, mark.status) == (0, "not done")


def test_a_draft_in_the_cell_that_was_handed_out_is_told(graded):
    mark = graded(code("def code_lengths(counts):\n    return counts\n", ID), code(RIGHT))
    assert mark.points == 0
    assert "a cell further down defines it once more" in mark.message


@pytest.mark.honest("right")
def test_of_several_drafts_the_last_counts(graded):
    draft = "def code_lengths(counts):\n    return counts\n"
    assert graded(code(draft), code(RIGHT)).points == 3
    assert graded(code(RIGHT), code(draft)).points == 0


@pytest.mark.honest("right")
def test_the_cell_that_was_handed_out_counts_before_any_other(graded):
    draft = "def code_lengths(counts):\n    return counts\n"
    assert graded(code(RIGHT, ID), code(draft)).points == 3
    assert graded(code(draft, ID), code(RIGHT)).points == 0


def test_a_specification_in_text_is_no_answer(graded):
    text = "An idea:\n\n```python\n" + RIGHT + "```\n"
    mark = graded(code(STUB, ID), code(text, kind="markdown"))
    assert (mark.points, mark.status) == (0, "not done")


@pytest.mark.honest("right")
def test_a_helper_in_a_split_cell_is_run(graded):
    helper = (
        "def heapified(counts):\n    return [(int(n), [s]) for s, n in enumerate(counts) if n]\n"
    )
    whole = RIGHT.replace("[(int(n), [s]) for s, n in enumerate(counts) if n]", "heapified(counts)")
    mark = graded(code(helper, ID), code(whole, ID))
    assert mark.points == mark.out_of
    assert "2 answer cells" in mark.message


# ---- what an answer leans on ---------------------------------------------------------------------
@pytest.mark.honest("right")
def test_a_line_above_the_function_that_needs_the_notebook_costs_nothing(graded):
    mark = graded(code("print(network.shape)\nname = input()\n" + RIGHT, ID))
    assert mark.points == mark.out_of
    assert "line 1, not run: NameError" in mark.message


def test_if_the_function_is_missing_the_first_error_is_told(graded):
    mark = graded(code("1 / 0\n", ID))
    assert mark.points == 0
    assert "ZeroDivisionError" in mark.message


SOFT = """
def soft_targets(logits, temperature):
    z = logits / temperature
    e = torch.exp(z - z.max(1, keepdim=True).values)
    return e / e.sum(1, keepdim=True)
"""


@pytest.mark.honest("right")
def test_an_answer_may_call_an_earlier_one(graded, monkeypatch):
    lengths = RIGHT.replace("def code_lengths", "def lengths_of") + (
        "\ndef code_lengths(counts):\n    return lengths_of(counts) + 0 * int(soft_targets("
        "torch.zeros(1, 2), 1.0).sum() - 1)\n"
    )
    mark = graded(code(SOFT, "distill.soft_targets"), code(lengths, ID))
    assert mark.points == mark.out_of
    assert "run with your answers to distill.soft_targets" in mark.message


def test_an_earlier_one_that_is_not_done_is_an_error_and_is_named(graded):
    stub = "def soft_targets(logits, temperature):\n    raise NotImplementedError\n"
    calling = "def code_lengths(counts):\n    return soft_targets(counts, 1)\n"
    mark = graded(code(stub, "distill.soft_targets"), code(calling, ID))
    assert (mark.points, mark.status) == (0, "error")
    assert "distill.soft_targets" in mark.message


@pytest.mark.honest("right")
def test_an_error_of_another_library_is_not_taken_for_a_stub(graded):
    mark = graded(
        code("def code_lengths(counts):\n    raise NotImplementedError\n    return 1", ID)
    )
    assert mark.status == "error"


@pytest.mark.honest("right")
def test_annotations_with_what_the_library_has_are_allowed(graded):
    answer = (
        "from compresslab.numerics import entropy\n"
        + RIGHT.replace("(counts)", "(counts: 'x') -> entropy.Table | None", 1).strip()
    )
    mark = graded(code(answer, ID))
    assert mark.points == mark.out_of, mark.message


# ---- Numba ---------------------------------------------------------------------------------------
HELPERS = {
    "jit with a cache": "@numba.jit(nopython=True, cache=True)\ndef twice(x): return x + x\n",
    "njit with a cache": "@njit(cache=True)\ndef twice(x): return x + x\n",
    "vectorize with a cache": "@numba.vectorize(cache=True)\ndef twice(x): return x + x\n",
    "parallel, with a demo": (
        "@njit(parallel=True)\ndef twice(x):\n    y = x.copy()\n"
        "    for i in numba.prange(len(x)): y[i] = 2 * x[i]\n    return y\ntwice(np.ones(1000))\n"
    ),
}


@pytest.mark.parametrize("helper", HELPERS.values(), ids=HELPERS.keys())
@pytest.mark.honest("right")
def test_helpers_may_be_compiled(graded, helper):
    using = RIGHT.replace("return bits", "return twice(bits) // 2")
    mark = graded(code(helper + using, ID))
    assert mark.points == mark.out_of, mark.message


QUANTIZE = """
def quantize_loop(x, inverse, zero, low, high, codes):
    for i in range(len(x)):
        code = np.rint(x[i] * inverse) + zero
        codes[i] = np.int8(min(max(code, low), high))
"""


def test_an_answer_that_must_be_compiled_earns_nothing_otherwise(graded):
    id = "numbers.quantize_loop"
    compiled = graded(code("@njit" + QUANTIZE, id), id=id)
    assert compiled.points == compiled.out_of, compiled.message
    plain = graded(code(QUANTIZE, id), id=id)
    assert (plain.points, plain.status, plain.mistake) == (0, "failed", "not compiled")


# ---- clocks --------------------------------------------------------------------------------------
SLOW = {
    "magic, then many lines": "%m\n" * 450 + "x=1\n" * 22_000,
    "magic without end": "%m\n" * 30_000,
    "a long line with a question": "a" * 90_000 + " b ?\n x",
    "shell": "!x\n" * 30_000,
}


@pytest.mark.parametrize("source", SLOW.values(), ids=SLOW.keys())
@pytest.mark.parametrize("id", [ID, None])
@pytest.mark.attack("files")
def test_no_cell_keeps_the_reader_busy(tmp_path, source, id):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": [code(source, id)] * 20}))
    start = time.perf_counter()
    submission.read(path, "ada", {ID})
    assert time.perf_counter() - start < 20
