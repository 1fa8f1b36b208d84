"""Code as text: what Python 3.11 prints, under whatever version this is."""

import ast
import sys
from pathlib import Path

import pytest

from compresslab import syntax

FILES = sorted(Path(syntax.__file__).parent.rglob("*.py"))
CODE = "def f(x, *, y=None):\n    return {**x, 'a': [n for n in y or ()]} if x[1:] else None"
# Printed by ast.dump of Python 3.11.7.
AS_PRINTED = (
    "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[arg(arg='x')], "
    "kwonlyargs=[arg(arg='y')], kw_defaults=[Constant(value=None)], defaults=[]), "
    "body=[Return(value=IfExp(test=Subscript(value=Name(id='x', ctx=Load()), "
    "slice=Slice(lower=Constant(value=1)), ctx=Load()), body=Dict(keys=[None, Constant(value='a')], "
    "values=[Name(id='x', ctx=Load()), ListComp(elt=Name(id='n', ctx=Load()), "
    "generators=[comprehension(target=Name(id='n', ctx=Store()), iter=BoolOp(op=Or(), "
    "values=[Name(id='y', ctx=Load()), Tuple(elts=[], ctx=Load())]), ifs=[], is_async=0)])]), "
    "orelse=Constant(value=None)))], decorator_list=[])], type_ignores=[])"
)


def test_it_is_what_python_3_11_prints():
    assert syntax.dump(ast.parse(CODE)) == AS_PRINTED


def test_a_field_of_a_later_version_is_left_out_while_it_is_empty(monkeypatch):
    tree = ast.parse("def f(): pass")
    before = syntax.dump(tree)
    fields = tuple(name for name in ast.FunctionDef._fields if name != "type_params")
    monkeypatch.setattr(ast.FunctionDef, "_fields", (*fields, "type_params"))
    tree.body[0].type_params = []
    assert syntax.dump(tree) == before
    tree.body[0].type_params = [ast.Name("T", ast.Load())]
    assert "type_params=[Name(id='T'" in syntax.dump(tree)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="only Python 3.11 prints it so")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_prints_every_file_as_python_3_11_does(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert syntax.dump(tree) == ast.dump(tree)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("f(1)", "f(2)"),
        ("f(1)", "f(1.0)"),
        ("f(None)", "f()"),
        ("x = [n for n in y]", "x = (n for n in y)"),
        ("def f(): pass", "async def f(): pass"),
        ("f(a=1)", "f(b=1)"),
        ("match x:\n    case None: pass", "match x:\n    case True: pass"),
        ("x[1:]", "x[:1]"),
    ],
)
def test_different_code_has_different_text(one, other):
    assert syntax.dump(ast.parse(one)) != syntax.dump(ast.parse(other))
