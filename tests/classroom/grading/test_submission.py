"""What is taken from a notebook, however it was changed."""

import json
import os
import time

import pytest

from compresslab.classroom.grading import submission

WANTED = {"combine.gaps", "combine.pareto_mask"}


def cell(source, id=None, **about):
    id = id.replace(".", "-") if isinstance(id, str) else id
    metadata = {"nbgrader": {"grade_id": id, "solution": True, "points": 99, **about}} if id else {}
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": []}


def notebook(tmp_path, *cells):
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4}))
    return path


def read(path):
    return submission.read(path, "ada", WANTED)


@pytest.mark.honest("right")
def test_answers_are_found_by_their_ids_in_any_order(tmp_path):
    found = read(
        notebook(
            tmp_path,
            cell("import numpy as np\nprint('hello')\nfrom math import pi as tau"),
            cell("def pareto_mask(c, a): pass\n", "combine.pareto_mask"),
            {"cell_type": "markdown", "source": "words", "metadata": {}},
            cell(["def gaps(k, b):\n", "    pass\n"], "combine.gaps"),
        )
    )
    assert set(found.answers) == WANTED
    assert found.answers["combine.gaps"] == "def gaps(k, b):\n    pass\n"
    assert found.imports == ("import numpy as np", "from math import pi as tau")
    assert found.remarks == ()


@pytest.mark.parametrize("id", ["combine.gap", "other.thing", "", 5, None, ["combine.gaps"]])
@pytest.mark.attack("judge")
def test_an_edited_id_is_no_answer(tmp_path, id):
    found = read(notebook(tmp_path, cell("x = 1"), cell("def gaps(): pass", id)))
    assert found.answers == {}
    assert "combine.gaps has no answer cell" in found.remarks


def test_a_check_cell_is_no_answer(tmp_path):
    found = read(notebook(tmp_path, cell("check()", "combine.gaps", solution=False)))
    assert found.answers == {}


def test_of_several_cells_all_are_run_in_order_and_that_is_told(tmp_path):
    found = read(
        notebook(tmp_path, cell("def help(): pass", "combine.gaps"), cell("second", "combine.gaps"))
    )
    assert found.answers["combine.gaps"] == "def help(): pass\nsecond"
    assert "combine.gaps has 2 answer cells, run in order" in found.remarks


def test_shell_and_magic_are_not_run_and_that_is_told(tmp_path):
    source = (
        "%%time\n!rm -rf /\ndef gaps(k, b):\n    %matplotlib inline\n    return k % b\nnp.sum?\n"
    )
    found = read(notebook(tmp_path, cell("x"), cell(source, "combine.gaps")))
    answer = found.answers["combine.gaps"]
    compile(answer, "<answer>", "exec")
    assert "return k % b" in answer
    assert "get_ipython().system('rm -rf /')" in answer
    assert "combine.gaps: lines of shell or magic were not run" in found.remarks


def test_lines_that_only_look_like_magic_are_left_alone(tmp_path):
    source = "def gaps(k, b):\n    return (\n        k\n        % b\n        != 0\n    )\n"
    found = read(notebook(tmp_path, cell("x"), cell(source, "combine.gaps")))
    assert found.answers["combine.gaps"] == source
    assert not any("magic" in r for r in found.remarks)


def test_imports_of_every_cell_count_also_behind_one_that_installs(tmp_path):
    cells = cell("!pip install numpy"), cell("import numpy as np"), cell("import heapq, heapq")
    found = read(notebook(tmp_path, *cells))
    assert found.imports == ("import numpy as np", "import heapq, heapq")


@pytest.mark.honest("right")
def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = notebook(tmp_path, cell("def gaps(): pass", "combine.gaps"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert set(read(path).answers) == {"combine.gaps"}


@pytest.mark.attack("files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "n.ipynb")
    assert read(tmp_path / "n.ipynb").remarks[0] == "the notebook cannot be read: it is no file"


BROKEN = {
    "no JSON": "{",
    "another kind of JSON": "[1, 2]",
    "no cells": "{}",
    "cells of another kind": '{"cells": {"a": 1}}',
    "endless nesting": "[" * 200_000,
    "no text": "\udcff",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.attack("files")
def test_a_broken_notebook_is_one_without_answers(tmp_path, text):
    path = tmp_path / "n.ipynb"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = read(path)
    assert found.answers == {}
    assert found.remarks[0].startswith("the notebook cannot be read")


@pytest.mark.parametrize(
    "odd",
    [
        5,
        None,
        {"cell_type": "code"},
        {"cell_type": "code", "source": 5},
        cell("x" * 200_000, "combine.gaps"),
        {"cell_type": "code", "source": ["a", 1]},
        {"cell_type": "code", "source": "x", "metadata": [1]},
    ],
)
def test_odd_cells_are_passed_over(tmp_path, odd):
    found = read(notebook(tmp_path, odd, cell("def gaps(): pass", "combine.gaps")))
    assert set(found.answers) == {"combine.gaps"}


@pytest.mark.attack("files")
def test_a_huge_notebook_is_not_read(tmp_path):
    path = tmp_path / "n.ipynb"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    assert read(path).remarks[0].endswith("it has 200 MB, allowed are 20")


@pytest.mark.parametrize(
    "cell_text", ["{}", '{"cell_type":"code","source":"x","metadata":{}}'], ids=["empty", "code"]
)
def test_a_notebook_of_very_many_cells_is_read_or_refused_in_time(tmp_path, cell_text):
    many = min(1_000_000, 19 * 2**20 // (len(cell_text) + 1))
    answer = json.dumps(cell("def gaps(): pass", "combine.gaps"))
    path = tmp_path / "n.ipynb"
    path.write_text(f'{{"cells": [{answer}' + f",{cell_text}" * many + "]}")
    start = time.process_time()
    found = read(path)
    assert time.process_time() - start < submission.READING_SECONDS + 15
    assert found.answers or "too long or too much memory" in found.remarks[0]


@pytest.mark.attack("files")
def test_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret.ipynb"
    secret.write_text(json.dumps({"cells": [cell("def gaps(): pass", "combine.gaps")]}))
    link = tmp_path / "n.ipynb"
    link.symlink_to(secret)
    assert read(link).answers == {}


def test_of_a_cell_that_is_not_all_python_the_imports_on_a_line_of_their_own_count(tmp_path):
    text = "import numpy as np\nthis is no python\nfrom torch import ("
    assert read(notebook(tmp_path, cell(text))).imports == ("import numpy as np",)


def test_only_imports_that_the_answer_uses_are_made():
    imports = (
        "import numpy as np",
        "import torch",
        "from math import pi, tau",
        "import a.b",
        "from c import *",
    )
    imports_of_g = ["import numpy as np", "from c import *"]
    answer = "def f(x):\n    return np.sum(x) + pi + a.b.c\n"
    assert submission.needed(imports, answer) == [
        "import numpy as np",
        "from math import pi, tau",
        "import a.b",
        "from c import *",
    ]
    assert submission.needed(imports, "def f(:") == ["from c import *"]
    assert submission.needed(imports, "def f(:", "def g(): return np.pi") == imports_of_g


@pytest.mark.honest("right")
@pytest.mark.parametrize(
    "above",
    ["%matplotlib inline", "%%time", "up?", "!pip list"],
    ids=["magic", "cell", "help", "shell"],
)
def test_a_helper_below_magic_is_there_for_the_answer(tmp_path, above):
    found = read(
        notebook(
            tmp_path,
            cell(
                f"{above}\nfrom math import (\n    pi,\n    tau,\n)\ndef up(x):\n    return x + pi"
            ),
            cell("def gaps(k, b):\n    return up(k)", "combine.gaps"),
        )
    )
    assert "def up(x)" in found.helpers["up"]
    assert any("tau" in line for line in found.imports)


@pytest.mark.honest("right")
def test_a_helper_in_the_cell_of_another_answer_is_there_too(tmp_path):
    one = "def _clip(x):\n    return x\ndef pareto_mask(c, a):\n    return _clip(c)"
    other = "def gaps(k, b):\n    return _clip(k)"
    found = read(notebook(tmp_path, cell(one, "combine.pareto_mask"), cell(other, "combine.gaps")))
    assert "def _clip(x)" in found.helpers["_clip"]
    assert not {"gaps", "pareto_mask"} & set(found.helpers)
