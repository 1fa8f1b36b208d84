"""A class's notebooks, as a person or a learning platform has put them together.

    FOLDER/alice/12_capstone.ipynb                                       a folder for each learner
    FOLDER/bob.ipynb                                                     a file for each learner
    FOLDER/Ada Lovelace_4711_assignsubmission_file_/12_capstone.ipynb    Moodle, in folders or not
    FOLDER/lovelaceada_LATE_4711_90210_12_capstone-1.ipynb               Canvas
    FOLDER/Lab 12_ada_attempt_2026-03-01-09-30-00_12_capstone.ipynb      Blackboard
    FOLDER/submission_4711/12_capstone.ipynb                             Gradescope
    any of these as a zip file, and zip files in them

A notebook that a browser has saved as `.ipynb.txt` or `.ipynb.json` is one. Hidden folders, checkpoints,
recycle bins and `__MACOSX` are passed over. Of a learner's notebooks the one counts that is named like the
lab, of several the one nearest to the top, of several attempts the last. Learners whose archive is of another
kind (tar, rar, 7z), or who handed in a script or a document, get a row that says so. How zip files are
opened: see `unpack`.
"""

import itertools
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from compresslab.classroom.grading.sandbox import printable
from compresslab.classroom.grading.unpack import (
    ARCHIVES,
    LARGEST_ZIP,
    MOST_OF_CLASS,
    NOT_OPENED,
    TAKEN,
    Tree,
    Unpacker,
    insert,
    is_hidden,
    is_long,
    kind_of,
    parts_of,
)

MOODLE = re.compile(r"(?P<who>.+?_\d+)_assignsubmission_(?:file|onlinetext)_?(?P<rest>.*)")
CANVAS = re.compile(r"(?P<who>[^_]+_(?:LATE_)?\d+)_(?P<number>\d+)_(?P<rest>.+)")
BLACKBOARD = re.compile(
    r"(?P<title>.+?)_(?P<who>[^_]+)_attempt_(?P<when>\d{4}(?:-\d\d){5})_(?P<rest>.+)", re.IGNORECASE
)
ATTEMPT = re.compile(r"attempt[ _-]*(\d+)", re.IGNORECASE)
AGAIN = re.compile(r"-(\d+)$")
OTHER_FORMS = (".py", ".pdf", ".html", ".docx", ".odt")
"""What a notebook is handed in as by mistake."""
NOBODYS = re.compile(
    r"\d\d_|(?:readme|licen[sc]e|assignment|rubric|solutions?|index)\b", re.IGNORECASE
)
"""How the teacher's own files beside the submissions are named."""


@dataclass(frozen=True)
class Found:
    """A learner's submission.

    Attributes:
        path: the notebook; one that is not there stands for a submission that is missing.
        remark: what was odd, in words for a teacher.
    """

    path: Path
    remark: str = ""


@dataclass(frozen=True)
class _Candidate:
    """A notebook that a learner has handed in: its name, where it lay, and where it can be read."""

    parts: tuple[str, ...]
    path: Path
    attempt: int = 0

    @property
    def stem(self) -> str:
        return PurePosixPath(self.parts[-1]).stem


@dataclass
class _Class:
    """The candidates of each learner, and what is to be said."""

    notebooks: dict[str, list[_Candidate]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def learner(self, who: str) -> str:
        who = printable(who, 200)
        self.notebooks.setdefault(who, [])
        return who

    def seen(self, who: str, name: str) -> bool:
        """Whether there was a submission of theirs before this one."""
        return self.first.setdefault(who, name) != name

    def remark(self, who: str, text: str) -> None:
        self.remarks.setdefault(who, []).append(text)


def submissions(place: Path, lab: str, unpacked: Path) -> dict[str, Found]:
    """The notebooks of a lab by learner, in the order of their names.

    A learner with no notebook, with several that could be meant, or with two submissions (a folder, and a
    notebook beside it) has a submission that is missing.

    Args:
        place: a folder, or a zip file of one.
        lab: its full name, such as "12_capstone".
        unpacked: a folder for what comes out of zip files; need not be there.

    Raises:
        FileNotFoundError: if there is no such folder or file, or nothing in it.
        ValueError: if it is a file and no zip file.
    """
    place, found, unpack = Path(place), _Class(), Unpacker(unpacked)
    if place.is_dir():
        entries = [(path.name, path) for path in sorted(place.iterdir())]
        download = _only_download(entries)
        entries = _top_of(unpack, download) if download else entries
    elif place.is_file():
        if not zipfile.is_zipfile(place):
            raise ValueError(f"folder must be a folder or a zip file, got {place}")
        entries = _top_of(unpack, place)
    else:
        raise FileNotFoundError(f"no folder {place}")
    title = _title([name for name, _ in entries])
    for name, entry in entries:
        if not is_hidden(name) and not _is_ours(entry):
            _add(found, unpack, name, entry, title)
    if not found.notebooks:
        raise FileNotFoundError(f"no notebook of lab {lab!r} in {place}")
    return {who: _chosen(who, found, lab, place) for who in sorted(found.notebooks)}


Remark = Callable[[str], None]


def _only_download(entries: list[tuple[str, Path]]) -> Path | None:
    """A class's zip file that lies in its folder as it was downloaded, with nothing to grade beside it."""
    shown = [
        path for name, path in entries if not is_hidden(name) and _may_hold_notebooks(name, path)
    ]
    if len(shown) != 1 or kind_of(shown[0].name) != ".zip" or shown[0].is_symlink():
        return None
    try:
        outline = {} if is_long(shown[0]) else _outline(shown[0])
    except (OSError, ValueError):
        return None
    return shown[0] if _is_class(outline) or _around(outline) else None


def _may_hold_notebooks(name: str, entry: "Path | Tree | str") -> bool:
    is_link = isinstance(entry, Path) and entry.is_symlink()
    is_folder = isinstance(entry, dict) or (isinstance(entry, Path) and entry.is_dir())
    return (is_folder and not is_link) or kind_of(name) in TAKEN


def _top_of(unpack: Unpacker, place: Path) -> list[tuple[str, Path | Tree | str]]:
    """What lies in the class's zip file; folders around all of it are taken off."""
    outline = _outline(place)
    around = _around(outline)
    tree, problem = unpack.tree(place, around=len(around), members=MOST_OF_CLASS)
    if problem:
        raise ValueError(f"{place}: {problem}")
    for name in around:
        inner = tree.get(name, {})
        tree = inner if isinstance(inner, dict) else {}
    return sorted(tree.items())


def _outline(place: Path) -> Tree:
    """The names in a zip file.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        with zipfile.ZipFile(place) as archive:
            names = [parts_of(member) for member in archive.infolist()]
    except Exception as error:  # a broken file finds ways of its own to be broken
        raise ValueError(f"{place} is no zip file that can be read ({error})") from error
    outline: Tree = {}
    for parts in names:
        if parts and not any(map(is_hidden, parts)) and ".." not in parts:
            insert(outline, parts[:-1], {parts[-1]: ""})
    return outline


def _around(outline: Tree) -> list[str]:
    """The names of folders that lie around a whole class."""
    names: list[str] = []
    while not _is_class(outline):
        # A table of the class or a text beside its folder is nobody's.
        outline = {n: inner for n, inner in outline.items() if _may_hold_notebooks(n, inner)}
        if len(outline) != 1 or len(names) > 3:
            return []
        ((name, inner),) = outline.items()
        if not isinstance(inner, dict):
            return []
        names, outline = [*names, name], inner
    return names


def _is_class(outline: Tree) -> bool:
    """Whether this is a folder of submissions, and not one learner's."""
    if any(_is_platforms(name) for name in outline):
        return True
    notebooks = [n for n in outline if kind_of(n) == ".ipynb" and outline[n] == ""]
    # A lab's name, and no learner's number.
    if any(re.match(r"\d\d_\D", name) for name in notebooks):
        return False
    folders = [n for n, inner in outline.items() if isinstance(inner, dict) or kind_of(n) == ".zip"]
    return len(folders) + len(notebooks) > 1


def _is_platforms(name: str) -> bool:
    return any(form.fullmatch(name) for form in (MOODLE, CANVAS, BLACKBOARD))


def _is_ours(entry: "Path | Tree | str") -> bool:
    """Whether this is the folder of records of a run whose results were put beside the submissions."""
    named = isinstance(entry, Path) and entry.name.endswith(".records")
    return named and (entry / "run.json").is_file()


def _add(
    found: _Class, unpack: Unpacker, name: str, entry: "Path | Tree | str", title: str
) -> None:
    """One entry at the top: a learner's folder, notebook or zip file."""
    is_tree = isinstance(entry, dict) and kind_of(name) != ".zip"
    is_folder = is_tree or (isinstance(entry, Path) and entry.is_dir() and not entry.is_symlink())
    if not is_folder and not _may_hold_notebooks(name, entry):
        # Somebody's all the same: a platform names it so, or it is a form in which answers are handed in.
        alone = kind_of(name) in OTHER_FORMS and not NOBODYS.match(name)
        if _is_platforms(name) or alone:
            found.remark(found.learner(_who(name, is_folder, title)[0]), f"{name} is no notebook")
        return
    who, rest, attempt = _who(name, is_folder, title)
    key = found.learner(who)
    if not _is_platforms(name) and found.seen(key, name):
        found.remark(key, f"two submissions, {found.first[key]} and {name}: leave one of them")
        found.notebooks[key].clear()
        return
    unpack.begin(key)
    parts = () if is_folder else (rest,)
    for candidate in _within(unpack, parts, entry, lambda text: found.remark(key, text)):
        number = max(attempt, candidate.attempt)
        found.notebooks[key].append(_Candidate(candidate.parts, candidate.path, number))


def _title(names: list[str]) -> str:
    """What all names of a Blackboard download begin with: the assignment's title, and "_"; "" if unknown."""
    begins = [m["title"] + "_" + m["who"] for m in map(BLACKBOARD.fullmatch, names) if m]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*begins, strict=False))
    common = "".join(letters[0] for letters in same)
    return common[: common.rfind("_") + 1]


def _who(name: str, is_folder: bool, title: str) -> tuple[str, str, int]:
    """The learner, the file's own name, and the number of the attempt."""
    blackboard = BLACKBOARD.fullmatch(name)
    if blackboard and not is_folder:
        # Moments in order are numbers in order. A user's name may hold a "_".
        who = (blackboard["title"] + "_" + blackboard["who"]).removeprefix(title)
        who = who if title else blackboard["who"]
        return who, blackboard["rest"], int(blackboard["when"].replace("-", ""))
    canvas = CANVAS.fullmatch(name)
    if canvas and not is_folder:
        who = canvas["who"].replace("_LATE_", "_")
        rest = PurePosixPath(canvas["rest"])
        return who, AGAIN.sub("", rest.stem) + rest.suffix, int(canvas["number"])
    moodle = MOODLE.fullmatch(name)
    if moodle:
        return moodle["who"], moodle["rest"] or name, 0
    return (name if is_folder else _without_kind(name)), name, 0


def _without_kind(name: str) -> str:
    """A file's name without what tells its kind, `.tar.gz` and `.ipynb.txt` included."""
    path = PurePosixPath(name)
    inner = PurePosixPath(path.stem)
    return inner.stem if inner.suffix.lower() in (".ipynb", ".tar") else path.stem


def _within(
    unpack: Unpacker, parts: tuple[str, ...], entry: "Path | Tree | str", remark: "Remark"
) -> Iterator[_Candidate]:
    """The notebooks in an entry, zip files opened."""
    if isinstance(entry, str):
        remark(entry)
    elif isinstance(entry, dict):
        for name, inner in sorted(entry.items()):
            if not is_hidden(name):
                # What lies in a zip file lies where the zip file does.
                within = (
                    parts if isinstance(inner, dict) and kind_of(name) == ".zip" else (*parts, name)
                )
                yield from _within(unpack, within, inner, remark)
    elif entry.is_dir():
        if not entry.is_symlink():
            for inner in sorted(entry.iterdir()):
                if not is_hidden(inner.name):
                    yield from _within(unpack, (*parts, inner.name), inner, remark)
    elif kind_of(parts[-1]) == ".ipynb":
        yield _Candidate(parts, entry, _attempt(parts))
    elif kind_of(parts[-1]) in ARCHIVES:
        remark(f"{parts[-1]}: {NOT_OPENED}")
    elif kind_of(parts[-1]) == ".zip" and not entry.is_symlink():
        tree, problem = unpack.tree(entry) if _small(entry) else ({}, "it is too large")
        said = f"{parts[-1]}: "
        if problem:
            remark(said + problem)
        yield from _within(unpack, parts[:-1], tree, lambda text: remark(said + text))


def _small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LARGEST_ZIP


def _attempt(parts: tuple[str, ...]) -> int:
    return max((int(n[:9]) for part in parts for n in ATTEMPT.findall(part)), default=0)


# ---- the one that counts -------------------------------------------------------------------------
def _chosen(who: str, found: _Class, lab: str, place: Path) -> Found:
    remarks, all_of_them = found.remarks.get(who, []), found.notebooks[who]
    by_name = [c for c in all_of_them if _named(c.stem, lab) < 2]
    by_number = [c for c in all_of_them if _named(c.stem, lab) == 2]
    candidates = by_name or by_number or (all_of_them if len(all_of_them) == 1 else [])
    if not candidates:
        missing = f"one notebook of lab {lab} among {len(all_of_them)}.ipynb"
        return Found(place / who / missing, "; ".join(remarks))
    last = max(c.attempt for c in candidates)
    later = [c for c in all_of_them if c.attempt > last]
    if later:
        name = max(later, key=lambda c: c.attempt).parts[-1]
        remarks = [
            *remarks,
            f"{name} was handed in later, and is not named like the lab: is it meant?",
        ]
    if len({c.attempt for c in candidates}) > 1:
        remarks = [*remarks, "of several attempts the last was graded"]
    candidates = [c for c in candidates if c.attempt == last]
    # The nearest to the lab's name first ("12_capstone" before "12_capstone (1)"), then to the top.
    candidates.sort(key=lambda c: (_named(c.stem, lab), len(c.parts), len(c.stem), c.parts))
    if len(candidates) > 1:
        other = "/".join(candidates[1].parts)
        chosen = "/".join(candidates[0].parts)
        remarks = [*remarks, f"{chosen} was graded, not {other}"]
    return Found(candidates[0].path, "; ".join(remarks))


def _named(stem: str, lab: str) -> int:
    """How near a file's name is to the lab's: 0 its name, 1 with an addition, 2 its number, 3 another."""
    stem, lab = stem.lower(), lab.lower()
    if stem == lab:
        return 0
    if lab in stem:  # "12_capstone (1)", "Copy of 12_capstone"
        return 1
    return 2 if re.match(rf"{lab[:2]}(?!\d)", stem) else 3
