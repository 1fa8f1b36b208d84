"""Code as text that is the same under every version of Python: what the fingerprints of stored runs are of.

    ast.dump of "def f(): ..."     3.11  FunctionDef(name='f', args=..., body=[...], decorator_list=[])
                                   3.12  ..., decorator_list=[], type_params=[])
                                   3.13  FunctionDef(name='f', args=..., body=[...])

The standard library's dump prints the fields that a version of Python has, so a hash of it says that the
code changed wherever another version runs. Here a tree is printed as Python 3.11 does it: every field is
named, empty lists are printed, what is not given is left out, and a field that came later stands only where
it holds something.
"""

import ast

LATER = ("type_params",)
"""Fields of the tree that came after Python 3.11."""


def dump(node: ast.AST) -> str:
    """A syntax tree as text, without places in the file; equal under all versions for equal code."""
    return _text(node)


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    given = [(name, getattr(value, name, None)) for name in value._fields]
    fields = [f"{name}={_text(part)}" for name, part in given if _is_said(value, name, part)]
    return f"{type(value).__name__}({', '.join(fields)})"


def _is_said(node: ast.AST, name: str, part: object) -> bool:
    if name in LATER:
        return bool(part)
    # The value of a constant, also in a pattern, may be None; any other None is something that is not given.
    constant = isinstance(node, ast.Constant | ast.MatchSingleton)
    return part is not None or (constant and name == "value")
