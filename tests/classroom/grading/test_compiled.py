"""Whether an answer is compiled, as its text shows it; what it says of itself does not count."""

import pytest

from compresslab.classroom.exercises import exercise
from compresslab.classroom.grading import compiled
from compresslab.classroom.grading.grade import grade_exercise
from compresslab.classroom.grading.sandbox import MISSING, Limits, Sandbox, bubblewrap
from compresslab.classroom.grading.submission import Submission

IMPORTS = ("import numpy as np", "from numba import njit")
LOOP = """
def quantize_loop(x, inverse, zero, low, high, codes):
    for i in range(len(x)):
        code = np.rint(x[i] * inverse) + zero
        codes[i] = np.int8(min(max(code, low), high))
"""
ONE_LINE = """
def quantize_loop(x, inverse, zero, low, high, codes):
    codes[...] = np.clip(np.rint(x * inverse) + zero, low, high).astype(np.int8)
"""
SAYS_SO = """
import json, posix
line = json.dumps({"case": -1, "status": "compiled", "detail": "", "seconds": 0, "memory": 0}).encode()
for number in range(3, 64):
    try: posix.write(number, len(line).to_bytes(8, "little") + line + bytes(8))
    except OSError: pass
"""
COMPILED = {
    "a decorator": "@njit" + LOOP,
    "with options": "@njit(cache=True, fastmath=False)" + LOOP,
    "jit": "from numba import jit\n@jit(nopython=True)" + LOOP,
    "another name": "from numba import njit as fast\n@fast" + LOOP,
    "of the module": "import numba\n@numba.njit" + LOOP,
    "of the module by another name": "import numba as nb\n@nb.njit()" + LOOP,
    "everything": "from numba import *\n@njit" + LOOP,
    "by a call": LOOP.replace("quantize_loop", "slow") + "quantize_loop = njit(slow)\n",
    "by two calls": LOOP.replace("quantize_loop", "slow") + "quantize_loop = njit()(slow)\n",
    "with a helper": "from numba import prange, types\n@njit\ndef twice(a):\n    return 2 * a\n@njit"
    + LOOP,
    "beside stars that bring no compiler": "from math import *\nfrom numpy import *\n@njit" + LOOP,
    "defined twice": ONE_LINE + "@njit" + LOOP,
}
NOT = {
    "nothing": LOOP,
    "a decorator of its own": "def njit(f): return f\n@njit" + LOOP,
    "a name of its own": "njit = lambda f: f\n@njit" + LOOP,
    "in a loop": "for njit in [lambda f: f]: pass\n@njit" + LOOP,
    "in a clause": "try: raise ValueError\nexcept ValueError as njit: pass\n@njit" + LOOP,
    "in a function": "def g():\n    global njit\n    njit = 1\n@njit" + LOOP,
    "another module by that name": "import json as njit\n@njit" + LOOP,
    "from another module": "from functools import cache as njit\n@njit" + LOOP,
    "from anywhere": "from functools import *\n@njit" + LOOP,
    "something else of Numba's": "from numba import vectorize as njit\n@njit" + LOOP,
    "a part of the module": "import numba\nnumba.njit = lambda f: f\n@numba.njit" + LOOP,
    "taken off again": "@njit" + LOOP + "quantize_loop = quantize_loop.py_func\n",
    "defined anew": "@njit" + LOOP + ONE_LINE,
    "a decorator above it": "def off(f): return f.py_func\n@off\n@njit" + LOOP,
    "a class by that name": "class njit:\n    def __new__(cls, f): return f\n@njit" + LOOP,
    "defined anew in an if": "@njit" + LOOP + "if True:\n    def quantize_loop(*a): pass\n",
    "bound anew in an if": "@njit" + LOOP + "if True:\n    quantize_loop = print\n",
    "bound anew in a loop": "@njit" + LOOP + "for quantize_loop in [print]: pass\n",
    "bound anew by an import": "@njit" + LOOP + "from math import exp as quantize_loop\n",
    "bound anew in a function": "@njit"
    + LOOP
    + "def g():\n    global quantize_loop\n    quantize_loop = 1\n",
    "bound anew in an expression": "@njit" + LOOP + "(quantize_loop := print)\n",
    "put in its place": "@njit" + LOOP + "globals()['quantize_loop'] = 1\n",
    "by a set of the module": "import numba\nsetattr(numba, 'njit', 1)\n@numba.njit" + LOOP,
    "with compiling switched off": "from numba import config\n@njit"
    + LOOP
    + "config.DISABLE_JIT = True\n",
    "switched off by the module": "import numba\n@njit"
    + LOOP
    + "numba.config.DISABLE_JIT = True\n",
    "by another name of the module": "import numba as nb\nx = nb\nx.njit = lambda f, **k: f\n@njit"
    + LOOP,
    "in object mode": "from numba import objmode\n@njit" + LOOP,
    "no Python": "@njit" + LOOP + "return (",
}


@pytest.mark.parametrize("source", COMPILED.values(), ids=COMPILED)
def test_what_stands_under_numbas_compiler_is_seen(source):
    assert compiled.complaint(source, "quantize_loop", IMPORTS) == ""


@pytest.mark.parametrize("source", NOT.values(), ids=NOT)
def test_what_does_not_is_told(source):
    assert compiled.complaint(source, "quantize_loop", IMPORTS)


@pytest.fixture(scope="module")
def graded():
    if bubblewrap() is None:
        pytest.skip(MISSING)
    with Sandbox() as sandbox:
        yield lambda source: grade_exercise(
            exercise("numbers.quantize_loop"),
            Submission("ada", {"numbers.quantize_loop": source}, IMPORTS),
            5,
            sandbox,
            Limits(wall=60, cpu=25),
        )


@pytest.mark.honest("right")
@pytest.mark.parametrize("kind", ["a decorator", "of the module by another name", "by a call"])
def test_a_compiled_answer_earns_all(graded, kind):
    assert graded(COMPILED[kind]).points == 2


SWITCHED_OFF = (
    "\nimport numba\nnumba.config.DISABLE_JIT = True\n",
    "\nimport numba\ngetattr(numba, 'config').__class__.DISABLE_JIT = 1\n",
    "\nimport numba as nb\nx = nb\nx.njit = lambda f, **k: f\n",
)


@pytest.mark.attack("judge")
@pytest.mark.parametrize("more", SWITCHED_OFF)
def test_a_compiler_that_was_switched_off_compiles_nothing(graded, more):
    plain = LOOP.replace("for i", "bin(3)\n    for i", 1)  # what Numba takes no part of
    assert graded("@njit" + plain + more).points == 0


@pytest.mark.attack("judge")
@pytest.mark.parametrize("source", [LOOP, ONE_LINE], ids=["a loop", "a line of NumPy"])
def test_an_answer_that_only_says_it_is_compiled_earns_nothing(graded, source):
    mark = graded(SAYS_SO + source)
    assert (mark.points, mark.mistake) == (0, "not compiled")
    assert "does not stand under @njit" in mark.message
