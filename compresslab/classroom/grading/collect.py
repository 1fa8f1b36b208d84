"""A class's notebooks, as a person or a learning platform has put them together.

    FOLDER/alice/12_capstone.ipynb                                       a folder for each learner
    FOLDER/bob.ipynb                                                     a file for each learner
    FOLDER/Ada Lovelace_4711_assignsubmission_file_/12_capstone.ipynb    Moodle, in folders or not
    FOLDER/lovelaceada_LATE_4711_90210_12_capstone-1.ipynb               Canvas
    FOLDER/Lab 12_ada_attempt_2026-03-01-09-30-00_12_capstone.ipynb      Blackboard
    FOLDER/submission_4711/12_capstone.ipynb                             Gradescope
    any of these as a zip file, and zip files in them

Hidden folders, checkpoints, recycle bins and `__MACOSX` are passed over. Of a learner's notebooks the one
counts that is named like the lab, of several the one nearest to the top, of several attempts the last.

A zip file may be hostile: nothing is unpacked but notebooks, under names of ours, and of a limited number
and size, which is counted while it is read and not believed. Left out: other archives (tar, rar, 7z).
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from compresslab.classroom.grading.sandbox import printable
from compresslab.classroom.grading.submission import LARGEST
from compresslab.data.files import write_whole

MOST_MEMBERS, DEEPEST, MOST_UNPACKED = 20_000, 2, 4 * 2**30
LARGEST_ZIP = 64 * 2**20
"""Bytes of a learner's zip file; the class's may be of any size."""
MOODLE = re.compile(r"(?P<who>.+_\d+)_assignsubmission_(?:file|onlinetext)_?(?P<rest>.*)")
CANVAS = re.compile(r"(?P<who>[^_]+_(?:LATE_)?\d+)_(?P<number>\d+)_(?P<rest>.+)")
BLACKBOARD = re.compile(
    r".+_(?P<who>[^_]+)_attempt_(?P<when>\d{4}(?:-\d\d){5})_(?P<rest>.+)", re.IGNORECASE
)
ATTEMPT = re.compile(r"attempt[ _-]*(\d+)", re.IGNORECASE)
AGAIN = re.compile(r"-(\d+)$")


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

    def learner(self, who: str) -> str:
        who = printable(who, 200)
        self.notebooks.setdefault(who, [])
        return who

    def remark(self, who: str, text: str) -> None:
        self.remarks.setdefault(who, []).append(text)


def submissions(place: Path, lab: str, unpacked: Path) -> dict[str, Found]:
    """The notebooks of a lab by learner, in the order of their names.

    A learner with no notebook, or with several that could be meant, has a submission that is missing.

    Args:
        place: a folder, or a zip file of one.
        lab: its full name, such as "12_capstone".
        unpacked: a folder for what comes out of zip files; need not be there.

    Raises:
        FileNotFoundError: if there is no such folder or file, or nothing in it.
        ValueError: if it is a file and no zip file, or a learner has a folder and a notebook beside it.
    """
    place, found, unpack = Path(place), _Class(), _Unpacker(unpacked)
    if place.is_dir():
        entries = [(path.name, path) for path in sorted(place.iterdir())]
    elif place.is_file():
        if not zipfile.is_zipfile(place):
            raise ValueError(f"folder must be a folder or a zip file, got {place}")
        entries = _top_of(unpack, place)
    else:
        raise FileNotFoundError(f"no folder {place}")
    for name, entry in entries:
        if not _is_hidden(name):
            _add(found, unpack, name, entry)
    if not found.notebooks:
        raise FileNotFoundError(f"no notebook of lab {lab!r} in {place}")
    return {who: _chosen(who, found, lab, place) for who in sorted(found.notebooks)}


Tree = dict[str, "Tree | Path"]
Remark = Callable[[str], None]


def _top_of(unpack: "_Unpacker", place: Path) -> list[tuple[str, Path | Tree]]:
    """What lies in the class's zip file; a single folder around all of it is taken off."""
    tree, problem = unpack.tree(place)
    if problem:
        raise ValueError(f"{place}: {problem}")
    if len(tree) == 1:
        (inner,) = tree.values()
        if isinstance(inner, dict) and (len(inner) > 1 or any(_is_platforms(n) for n in inner)):
            tree = inner
    return sorted(tree.items())


def _is_platforms(name: str) -> bool:
    return any(form.fullmatch(name) for form in (MOODLE, CANVAS, BLACKBOARD))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _add(found: _Class, unpack: "_Unpacker", name: str, entry: "Path | Tree") -> None:
    """One entry at the top: a learner's folder, notebook or zip file."""
    is_folder = isinstance(entry, dict) or (entry.is_dir() and not entry.is_symlink())
    if not is_folder and _kind(name) not in (".ipynb", ".zip"):
        return
    who, rest, attempt = _who(name, is_folder)
    key = found.learner(who)
    if not _is_platforms(name) and found.notebooks[key]:
        raise ValueError(
            f"two submissions of learner {key!r}: {found.notebooks[key][0].path} and {entry}"
        )
    parts = () if is_folder else (rest,)
    for candidate in _within(unpack, parts, entry, lambda text: found.remark(key, text)):
        number = max(attempt, candidate.attempt)
        found.notebooks[key].append(_Candidate(candidate.parts, candidate.path, number))


def _who(name: str, is_folder: bool) -> tuple[str, str, int]:
    """The learner, the file's own name, and the number of the attempt."""
    blackboard = BLACKBOARD.fullmatch(name)
    if blackboard and not is_folder:
        # Moments in order are numbers in order.
        return blackboard["who"], blackboard["rest"], int(blackboard["when"].replace("-", ""))
    canvas = CANVAS.fullmatch(name)
    if canvas and not is_folder:
        who = canvas["who"].replace("_LATE_", "_")
        rest = PurePosixPath(canvas["rest"])
        return who, AGAIN.sub("", rest.stem) + rest.suffix, int(canvas["number"])
    moodle = MOODLE.fullmatch(name)
    if moodle:
        return moodle["who"], moodle["rest"] or name, 0
    return (name if is_folder else PurePosixPath(name).stem), name, 0


def _within(
    unpack: "_Unpacker", parts: tuple[str, ...], entry: "Path | Tree", remark: "Remark"
) -> Iterator[_Candidate]:
    """The notebooks in an entry, zip files opened."""
    if isinstance(entry, dict):
        for name, inner in sorted(entry.items()):
            if not _is_hidden(name):
                yield from _within(unpack, (*parts, name), inner, remark)
        return
    if entry.is_dir():
        if not entry.is_symlink():
            for inner in sorted(entry.iterdir()):
                if not _is_hidden(inner.name):
                    yield from _within(unpack, (*parts, inner.name), inner, remark)
        return
    kind = _kind(parts[-1])
    if kind == ".ipynb":
        yield _Candidate(parts, entry, _attempt(parts))
    elif kind == ".zip" and not entry.is_symlink():
        tree, problem = unpack.tree(entry) if _small(entry) else ({}, "it is too large")
        if problem:
            remark(f"{parts[-1]}: {problem}")
        yield from _within(unpack, parts[:-1], tree, remark)


def _small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= LARGEST_ZIP


def _attempt(parts: tuple[str, ...]) -> int:
    return max((int(n[:9]) for part in parts for n in ATTEMPT.findall(part)), default=0)


# ---- the one that counts -------------------------------------------------------------------------
def _chosen(who: str, found: _Class, lab: str, place: Path) -> Found:
    remarks, all_of_them = found.remarks.get(who, []), found.notebooks[who]
    named = [c for c in all_of_them if _named(c.stem, lab) < 3]
    candidates = named or (all_of_them if len(all_of_them) == 1 else [])
    if not candidates:
        missing = f"one notebook of lab {lab} among {len(all_of_them)}.ipynb"
        return Found(place / who / missing, "; ".join(remarks))
    last = max(c.attempt for c in candidates)
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
    if stem.startswith(lab):
        return 1
    return 2 if re.match(rf"{lab[:2]}(?!\d)", stem) else 3


# ---- zip files -----------------------------------------------------------------------------------
class _Unpacker:
    """Takes the notebooks out of zip files, within limits that hold for all of them together."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.left, self.members = folder, MOST_UNPACKED, MOST_MEMBERS

    def tree(self, source: Path | BinaryIO, depth: int = 0) -> tuple[Tree, str]:
        """The notebooks of a zip file as a tree of names and paths, and what was wrong with it."""
        tree: Tree = {}
        problems = []
        try:
            with zipfile.ZipFile(source) as archive:
                members = archive.infolist()
                if len(members) > self.members:
                    return {}, f"it holds more than {self.members} files"
                self.members -= len(members)
                for member in members:
                    problem = self._take(tree, archive, member, depth)
                    problems += [problem] if problem else []
        except Exception as error:  # a hostile file finds ways of its own to be broken
            return tree, f"it is no zip file that can be read ({type(error).__name__})"
        return tree, problems[0] if problems else ""

    def _take(
        self, tree: Tree, archive: zipfile.ZipFile, member: zipfile.ZipInfo, depth: int
    ) -> str:
        """Put one member into the tree; what was wrong with it, or ""."""
        names = [part for part in re.split(r"[/\\]", member.filename) if part not in ("", ".")]
        if member.is_dir() or not names or any(map(_is_hidden, names)):
            return "" if ".." not in names else f"{member.filename!r} leads out of it"
        kind = _kind(names[-1])
        if kind not in (".ipynb", ".zip"):
            return ""
        most = LARGEST if kind == ".ipynb" else LARGEST_ZIP
        content, problem = self._content(archive, member, min(most, self.left))
        if problem:
            return problem
        if kind == ".zip":
            if depth >= DEEPEST:
                return f"{names[-1]}: zip files are nested too deeply"
            inner, problem = self.tree(io.BytesIO(content), depth + 1)
            _insert(tree, names[:-1], inner)
            return problem
        _insert(tree, names[:-1], {names[-1]: self._kept(content)})
        return ""

    def _content(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int
    ) -> tuple[bytes, str]:
        if member.flag_bits & 1:
            return b"", f"{member.filename}: it has a password"
        try:
            with archive.open(member) as file:
                content = file.read(most + 1)
        except Exception as error:  # as above
            return b"", f"{member.filename}: it cannot be read ({type(error).__name__})"
        if len(content) > most:
            return b"", f"{member.filename}: it is larger than {most // 2**20} MB"
        self.left -= len(content)
        return content, ""

    def _kept(self, content: bytes) -> Path:
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}.ipynb"
        if not path.is_file():
            write_whole(path, lambda temporary: temporary.write_bytes(content))
        return path


def _insert(tree: Tree, folders: list[str], what: Tree) -> None:
    for name in folders:
        inner = tree.setdefault(name, {})
        tree = inner if isinstance(inner, dict) else {}
    tree.update(what)
