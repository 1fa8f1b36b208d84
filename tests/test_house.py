"""The house stands as described: imports run one way, the README's tree is the disk's, no stray files."""

import ast
import re
import subprocess
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compresslab"
LAYERS = [
    *(
        "kernels",
        "numerics",
        "shorter",
        "seeds",
        "syntax",
        "language",
        "writing",
        "notice",
        "ownership",
        "shown_words",
        "markup",
        "alternative_text",
        "progress_bar",
        "data",
        "arguments",
        "models",
        "gpt",
        "precision",
        "narrow_convolutions",
        "training",
    ),
    *("claims", "experiment", "baselines", "pretrained", "published", "real", "network"),
    *(
        "techniques",
        "runtime",
        "measure",
        "report",
        "inspection",
        "debugging",
        "stages",
        "advisor",
        "longer",
        "classroom",
        "lab",
        "doctor",
        "cli",
    ),
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_no_file_but_exercises_is_over_400_lines():
    long = {dotted(p): n for p in MODULES if (n := p.read_text("utf-8").count("\n")) > 400}
    assert not {
        k: n for k, n in long.items() if not k.startswith("compresslab.classroom.exercises")
    }


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path, top_level_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                file = ROOT / (module.replace(".", "/") + ".py")
                folder = ROOT / module.replace(".", "/") / "__init__.py"
                yield module if file.is_file() or folder.is_file() else node.module


def layer(module):
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 else -1


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_run_one_way(path):
    own = dotted(path)
    for module in imported(path):
        if module.startswith("compresslab."):
            assert layer(module) <= layer(own), f"{own} imports {module}"


def test_there_is_no_import_cycle():
    graph = networkx.DiGraph()
    for path in MODULES:
        for module in imported(path, top_level_only=True):
            if module.startswith("compresslab") and module != dotted(path):
                graph.add_edge(dotted(path), module)
    # A package's own __init__ may gather its modules, which import their siblings through it.
    graph.remove_edges_from([(a, b) for a, b in graph.edges if b.startswith(f"{a}.")])
    assert networkx.is_directed_acyclic_graph(graph), networkx.find_cycle(graph)


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").glob("*.py")), ids=dotted)
def test_kernels_know_nothing_of_torch(path):
    assert not [m for m in imported(path) if m.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels").glob("*.py")), ids=dotted)
def test_kernels_are_compiled_in_one_place(path):
    """Numba's own decorator fails where no cache can be written; `_jit.kernel` does not."""
    if path.stem != "_jit":
        assert not re.search(r"\bnjit\b", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_opens_with_its_idea(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def tree_of_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", text, re.DOTALL)[1]
    stack, paths = [], set()
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        paths.add("/".join(stack) + ("/" if name.endswith("/") else ""))
    return paths


def tree_of_disk():
    paths = set()
    for top in ("compresslab", "benchmarks", "solutions"):
        paths.add(f"{top}/")
        for path in (ROOT / top).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if (
                "__pycache__" in name
                or ".ipynb" in name
                or path.name in ("__init__.py", "py.typed")
                or path.parent.name == "results"
                or "/locale/" in name
                or "/recorded/" in name
            ):
                continue
            paths.add(name + ("/" if path.is_dir() else ""))
    return paths


def test_the_readmes_tree_is_the_disks():
    told = {
        p for p in tree_of_readme() if p.split("/")[0] in ("compresslab", "benchmarks", "solutions")
    }
    assert told == tree_of_disk()
    for path in tree_of_readme():
        assert (ROOT / path).exists(), path


def test_constraints_can_be_met_from_any_index():
    """A local version ("+cpu") is on no index but its maker's."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert not [line for line in lines if "+" in line]


PAGES = ["README.md", "CONTRIBUTING.md", "docs/instructor.md", "docs/teaching/syllabus.md"]


@pytest.mark.parametrize("page", [*PAGES, "docs/teaching/labs.md"])
def test_links_and_commands_of_the_pages_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_nothing_strays_at_the_top():
    found = subprocess.run(
        ["git", "ls-files", "--", ":(glob)*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip("no git repository here")
    known = {".gitignore", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "README.zh.md"}
    known |= {"constraints.txt", "pyproject.toml", "uv.lock"}
    assert set(found.stdout.split()) <= known
