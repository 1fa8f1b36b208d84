"""Slow answers, builds and open exercises in the sandbox: what they earn, and how they cannot cheat."""

import inspect
import textwrap

import nbformat
import pytest

from compresslab.classroom.exercises.opens import distillation
from compresslab.classroom.grading.grade import grade_notebook
from compresslab.classroom.grading.sandbox import MISSING, bubblewrap

pytestmark = pytest.mark.skipif(bubblewrap() is None, reason=MISSING)
IMPORTS = "import numpy as np\nimport torch"


def graded(tmp_path, lab, id, source, seed=5):
    """The mark of one answer."""
    cells = [nbformat.v4.new_code_cell(IMPORTS), nbformat.v4.new_code_cell(textwrap.dedent(source))]
    about = {"grade": False, "locked": False, "schema_version": 3, "solution": True, "task": False}
    cells[1].metadata["nbgrader"] = {**about, "grade_id": id.replace(".", "-")}
    path = tmp_path / f"{lab}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    marks = grade_notebook(path, "somebody", lab, seed)
    return next(m for m in marks if m.exercise == id)


# ---- slow ------------------------------------------------------------------------------------------
SLOW = """
def pack_signs(x):
    rows, count = x.shape
    words = np.zeros((rows, -(-count // 64)), np.uint64)
    for m in range(rows):
        for k in range(count):
            if x[m, k] >= 0:
                words[m, k // 64] |= np.uint64(1) << np.uint64(k % 64)
    return words
"""
QUICK = """
def pack_signs(x):
    bits = np.zeros((len(x), -(-x.shape[1] // 64) * 64), bool)
    bits[:, : x.shape[1]] = x >= 0
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64)
"""


def test_a_right_answer_that_loops_over_millions_earns_half(tmp_path):
    mark = graded(tmp_path, "10", "binary.pack_signs", SLOW)
    assert (mark.points, mark.out_of, mark.status, mark.mistake) == (1, 2, "partly", "slow")
    assert mark.message == (
        "right, but slow: six million numbers, more than 100,000 lines of Python"
    )


@pytest.mark.honest("right")
def test_a_quick_one_earns_all(tmp_path):
    mark = graded(tmp_path, "10", "binary.pack_signs", QUICK)
    assert (mark.points, mark.status, mark.message) == (2, "passed", "")


@pytest.mark.attack("judge")
def test_a_short_cut_for_large_arrays_earns_nothing(tmp_path):
    shortcut = SLOW.replace(
        "    for m in range", "    if x.size > 10_000:\n        return words\n    for m in range"
    )
    mark = graded(tmp_path, "10", "binary.pack_signs", shortcut)
    assert (mark.points, mark.status) == (0, "failed")
    assert "six million numbers" in mark.message


@pytest.mark.attack("judge")
def test_a_clock_that_stands_still_helps_nobody(tmp_path):
    stopped = "import time\ntime.perf_counter = time.process_time = lambda: 0.0\n" + SLOW
    assert graded(tmp_path, "10", "binary.pack_signs", stopped).points == 1


@pytest.mark.attack("judge")
def test_a_loop_in_fewer_lines_is_counted_all_the_same(tmp_path):
    """On a quick machine two seconds of processor time are enough for it."""
    looped = """
    def taylor_score(weight, gradients):
        means = np.abs(gradients).mean(axis=0).ravel().tolist()
        pairs = zip(weight.ravel().tolist(), means)
        return np.array([abs(w) * g for w, g in pairs], np.float32).reshape(weight.shape)
    """
    mark = graded(tmp_path, "04", "prune.taylor_score", looped)
    assert (mark.points, mark.mistake) == (mark.out_of / 2, "slow"), mark.message


@pytest.mark.attack("judge")
def test_an_answer_that_takes_the_count_away_is_held_to_processor_time(tmp_path):
    """It is one try in many, and then the loop must be quicker than it is."""
    untraced = SLOW.replace(
        "    rows, count", "    import sys\n    sys.settrace(None)\n    rows, count", 1
    )
    mark = graded(tmp_path, "10", "binary.pack_signs", untraced + "\n")
    assert (mark.points, mark.mistake) == (1, "slow"), mark.message
    assert "seconds" in mark.message


# ---- builds ----------------------------------------------------------------------------------------
LORA = """
def lora_layer(layer, rank, alpha):
    class LoRA(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer.requires_grad_(False)
            self.down = torch.nn.Parameter(torch.randn(rank, layer.in_features) / 4)
            self.up = torch.nn.Parameter(torch.zeros(layer.out_features, rank))

        def forward(self, x):
            return self.layer(x) + alpha / rank * (x @ self.down.T @ self.up.T)

        @torch.no_grad()
        def merged(self):
            new = torch.nn.Linear(layer.in_features, layer.out_features)
            new.weight.copy_(layer.weight + alpha / rank * self.up @ self.down)
            new.bias.copy_(layer.bias)
            return new

    return LoRA()
"""


@pytest.mark.honest("right")
def test_a_build_earns_all_of_its_stages(tmp_path):
    mark = graded(tmp_path, "06", "low_rank.lora_layer", LORA)
    assert (mark.points, mark.status) == (mark.out_of, "passed")


def test_a_build_earns_the_stages_before_its_mistake_and_is_told_which(tmp_path):
    wrong = LORA.replace("layer.weight + alpha / rank *", "layer.weight +")
    mark = graded(tmp_path, "06", "low_rank.lora_layer", wrong)
    assert (mark.points, mark.status, mark.mistake) == (9, "partly", "merged without the scale")
    assert "stage 4 of 4: merges" in mark.message


@pytest.mark.attack("judge")
def test_the_layer_itself_earns_nothing(tmp_path):
    mark = graded(
        tmp_path,
        "06",
        "low_rank.lora_layer",
        "def lora_layer(layer, rank, alpha):\n    return layer",
    )
    assert mark.points == 0


@pytest.mark.attack("judge")
def test_comparisons_that_an_answer_replaces_are_not_those_that_judge(tmp_path):
    lying = """
    import sys
    np.allclose = torch.allclose = np.array_equal = lambda *a, **k: True
    np.square = lambda x: x * 0

    def lora_layer(layer, rank, alpha):
        return torch.nn.Linear(layer.in_features, layer.out_features)
    """
    assert graded(tmp_path, "06", "low_rank.lora_layer", lying).points == 0


@pytest.mark.attack("judge")
def test_a_file_that_is_not_in_the_bytes_is_not_read(tmp_path):
    remembered = """
    KEPT = []

    def tensor_file(bits):
        def write(x):
            KEPT.append(x)
            return b"0"

        return write, lambda content: KEPT[-1]
    """
    mark = graded(tmp_path, "01", "numbers.tensor_file", remembered)
    assert mark.points == 0


# ---- open ------------------------------------------------------------------------------------------
@pytest.mark.honest("right")
def test_an_open_exercise_is_measured_from_what_comes_back(tmp_path):
    source = inspect.getsource(distillation._student) + (
        "\n\ndef train_student(images, logits, labels, room):\n"
        "    return _student(images, logits, labels, room)\n"
    )
    mark = graded(tmp_path, "08", "distill.train_student", source)
    assert (mark.points, mark.status) == (mark.out_of, "passed")
    assert mark.message.startswith("gold: ")
    assert mark.message.endswith("% of the validation images")


@pytest.mark.attack("judge")
def test_random_weights_win_no_medal(tmp_path):
    source = """
    def train_student(images, logits, labels, room):
        weights = np.random.default_rng(0).normal(0, 1, (26, 256)).astype(np.float32)
        return (weights,), (np.zeros(26, np.float32),)
    """
    mark = graded(tmp_path, "08", "distill.train_student", source)
    assert (mark.points, mark.status) == (0, "failed")
    assert "% of the validation images" in mark.message


@pytest.mark.parametrize(
    "body,said",
    [
        (
            "np.zeros((64, 256), np.float32), np.zeros((26, 64), np.float32)",
            "bytes of float32, allowed",
        ),
        ("np.full((26, 256), np.nan, np.float32),", "must be finite"),
        ("np.zeros((26, 255), np.float32),", "do not take 256 inputs"),
        ("np.zeros((26, 256)),", "must be a float32 array"),
        ("np.zeros((25, 256), np.float32),", "must have 26 outputs"),
    ],
)
@pytest.mark.attack("judge")
def test_what_breaks_the_rules_is_named(tmp_path, body, said):
    source = f"""
    def train_student(images, logits, labels, room):
        weights = ({body})
        return weights, tuple(np.zeros(len(w), w.dtype) for w in weights)
    """
    mark = graded(tmp_path, "08", "distill.train_student", source)
    assert mark.points == 0
    assert said in mark.message


# ---- found by attack -------------------------------------------------------------------------------
@pytest.mark.attack("limits")
def test_a_relay_of_processes_has_no_more_time_than_one(tmp_path):
    relay = SLOW.replace(
        "            if x[m, k] >= 0:",
        "            if k % 999 == 0 and time.process_time() > 1.0:\n"
        "                pid = getattr(os, 'fo' + 'rk')()\n"
        "                if pid:\n"
        "                    os.waitpid(pid, 0)\n"
        "                    os._exit(0)\n"
        "            if x[m, k] >= 0:",
    )
    mark = graded(tmp_path, "10", "binary.pack_signs", "import os\nimport time\n" + relay)
    assert mark.points < 2


@pytest.mark.parametrize(
    "way",
    [
        "import sys\ndef look():\n    return sys._getframe(1).f_locals",
        "import gc\ndef look():\n    return gc.get_objects()",
        "import builtins",
        "from inspect import currentframe",
        "look = getattr(__import__('sys'), '_getframe')",
    ],
)
@pytest.mark.attack("judge")
def test_what_looks_behind_the_harness_is_for_a_person_to_look_at(tmp_path, way):
    source = way + "\ndef tensor_file(bits):\n    return (lambda x: b'0'), (lambda c: 0)\n"
    mark = graded(tmp_path, "01", "numbers.tensor_file", source)
    assert mark.points == 0
    assert "look at it by hand" in mark.message


@pytest.mark.attack("judge")
def test_imports_of_other_cells_are_looked_at_too():
    from compresslab.classroom.exercises import exercise
    from compresslab.classroom.grading.grade import _all_of_it
    from compresslab.classroom.grading.submission import Submission, suspect

    task = exercise("low_rank.lora_layer")
    answer = "def lora_layer(*a):\n    return g(0)\n"
    found = Submission("eve", {task.id: answer}, ("from sys import _getframe as g",))
    assert "_getframe" in suspect(_all_of_it(task, found), task)


@pytest.mark.attack("judge")
def test_a_harness_cannot_be_replaced_by_the_answer(tmp_path):
    source = """
    import sys
    real = sys.modules["built" + "ins"]
    kept = real.exec

    def fake(function):
        def run(stage, w, b, x, t, rank, alpha):
            s = x @ w.T + b
            if stage == "starts as it was":
                return "start", s
            return "alone", rank * sum(w.shape), w, b
        return run

    def patched(code, space=None, *rest):
        kept(code, space, *rest)
        if space is not None and "at_work" in space:
            space["at_work"] = fake

    real.exec = patched

    def lora_layer(layer, rank, alpha):
        return None
    """
    assert graded(tmp_path, "06", "low_rank.lora_layer", source).points == 0


@pytest.mark.parametrize(
    "data", ["'" + "a" * 500 + "'", "[" + "0.5, " * 500 + "]", str(2**4000), "'a'\n#" + "b" * 9000]
)
@pytest.mark.attack("judge")
def test_an_open_task_does_not_bring_its_numbers(tmp_path, data):
    source = (
        f"DATA = {data}\ndef train_student(images, logits, labels, room):\n    return DATA, DATA\n"
    )
    mark = graded(tmp_path, "08", "distill.train_student", source)
    assert mark.points == 0
    assert "look at it by hand" in mark.message


@pytest.mark.honest("right")
def test_a_block_whose_layers_are_made_in_another_order_is_right(tmp_path):
    source = """
    def inverted_residual(inputs, outputs, stride, expansion):
        nn, wide = torch.nn, inputs * expansion

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
                self.depth = nn.Sequential(
                    nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
                    nn.BatchNorm2d(wide),
                    nn.ReLU6(),
                )
                first = [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
                self.expand = nn.Sequential(*(first if expansion > 1 else []))

            def forward(self, x):
                y = self.project(self.depth(self.expand(x)))
                return x + y if stride == 1 and inputs == outputs else y

        return Block()
    """
    assert graded(tmp_path, "07", "slim.inverted_residual", source).points == 8
    linear = source.replace("nn.ReLU6()", "nn.Identity()")
    assert graded(tmp_path, "07", "slim.inverted_residual", linear).points < 4


@pytest.mark.honest("right")
def test_a_weight_that_is_kept_transposed_is_right(tmp_path):
    source = """
    def quantized_layer(layer, bits):
        high = 2 ** (bits - 1) - 1

        class Layer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.turned = torch.nn.Parameter(layer.weight.detach().T.clone())
                self.bias = torch.nn.Parameter(layer.bias.detach().clone())

            def codes(self):
                scale = self.turned.detach().abs().amax(0) / high
                return torch.round(self.turned.detach() / scale).clamp(-high, high).T.to(torch.int8), scale

            def forward(self, x):
                codes, scale = self.codes()
                rounded = codes.T * scale
                return x @ (self.turned + (rounded - self.turned).detach()) + self.bias

        return Layer()
    """
    assert graded(tmp_path, "03", "qat.quantized_layer", source).points == 16
