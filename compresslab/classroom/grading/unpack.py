"""Notebooks out of zip files that may be hostile.

Nothing is unpacked but notebooks, under names of ours, and of a limited number and size, which is counted
while it is read and not believed, for each learner alone: what one hands in takes nothing from another.
What is wrong with a part stands in its place and costs nothing else.
"""

import contextlib
import hashlib
import io
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from compresslab.classroom.grading.submission import LARGEST
from compresslab.writing import write_whole

MOST_MEMBERS, DEEPEST, MOST_UNPACKED = 20_000, 2, 256 * 2**20
"""Of a learner: files in all zip files, how deep they may lie in one another, bytes of notebooks."""
ENTRY = 300
"""Bytes of a file's entry in a zip file's directory, names of some length included."""
LARGEST_ZIP, MOST_OF_CLASS = 64 * 2**20, 1_000_000
"""Bytes of a learner's zip file, and files in that of a class, which may be of any size."""
ARCHIVES = (".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz")
TAKEN = (".ipynb", ".zip", *ARCHIVES)
NOT_OPENED = "such an archive is not opened, only zip files are"
Tree = dict[str, "Tree | Path | str"]
"""What is in a zip file: folders and zip files, notebooks, and in the place of one what was wrong with it."""


def _directory(source: Path | BinaryIO) -> int:
    """Bytes of a zip file's directory by its last record, which is read before the directory is.

    Raises:
        OSError: if it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        file.seek(0, io.SEEK_END)
        # The record has 22 bytes, and a comment behind it of up to 65,535; before it stands another one in
        # large files (APPNOTE 4.3.14).
        file.seek(max(0, file.tell() - 22 - 0xFFFF - 76))
        tail = file.read()
        file.seek(0)
    place = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[place + 12 : place + 16], "little") if place >= 0 else 0
    large = tail.rfind(b"PK\x06\x06", 0, max(place, 0))
    if size == 0xFFFFFFFF and large >= 0:
        size = int.from_bytes(tail[large + 40 : large + 48], "little")
    return size


def is_long(source: Path | BinaryIO) -> bool:
    """Whether a zip file lists more files than one learner's may hold; its list is not read for that."""
    return _directory(source) > MOST_MEMBERS * ENTRY


def is_hidden(name: str) -> bool:
    """Whether it is nothing that anybody has handed in."""
    return name.startswith(".") or name == "__MACOSX"


def kind_of(name: str) -> str:
    """A file's kind by its name: ".ipynb", ".zip" and so on."""
    path = PurePosixPath(name.lower())
    saved = path.suffix in (".txt", ".json") and PurePosixPath(path.stem).suffix == ".ipynb"
    return ".ipynb" if saved else path.suffix


class Unpacker:
    """Takes the notebooks out of zip files, within limits that hold for each learner alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.begin("")

    def begin(self, who: str) -> None:
        """What is unpacked from here on is this learner's."""
        self.who = who
        self.members.setdefault(who, MOST_MEMBERS)
        self.left.setdefault(who, MOST_UNPACKED)

    def tree(
        self, source: Path | BinaryIO, depth: int = 0, around: int = -1, members: int = 0
    ) -> tuple[Tree, str]:
        """The notebooks of a zip file as a tree, and what was wrong with the file as a whole.

        Args:
            source: the file.
            depth: how many zip files it lies in.
            around: of a class's file, how many folders lie around all submissions; -1 for a learner's.
            members: of a class's file, how many files it may hold.
        """
        tree: Tree = {}
        try:
            if not members and is_long(source):
                return {}, f"it holds more than {MOST_MEMBERS} files"
            with zipfile.ZipFile(source) as archive:
                infos = archive.infolist()
                allowed = members or self.members[self.who]
                if len(infos) > allowed:
                    return {}, f"it holds more than {allowed} files"
                if not members:
                    self.members[self.who] -= len(infos)
                for member in infos:
                    if around >= 0:
                        parts = parts_of(member)
                        self.begin("/".join(parts[: around + 1]))
                        if len(parts) == around + 1 and not member.is_dir():
                            self._named(tree, parts)
                    self._take(tree, archive, member, depth if around < 0 else depth - 1)
        except Exception as error:  # a hostile file finds ways of its own to be broken
            return tree, f"it is no zip file that can be read ({type(error).__name__})"
        return tree, ""

    def _named(self, tree: Tree, parts: list[str]) -> None:
        """A file of somebody's that is no notebook has its place in the tree, too."""
        if not is_hidden(parts[-1]) and kind_of(parts[-1]) not in TAKEN:
            insert(tree, parts[:-1], {parts[-1]: f"{parts[-1]} is no notebook"})

    def _take(
        self, tree: Tree, archive: zipfile.ZipFile, member: zipfile.ZipInfo, depth: int
    ) -> None:
        """Put one member into the tree, or what is wrong with it."""
        names = parts_of(member)
        if ".." in names:
            return insert(tree, [], {"": f"{name_of(member)!r} leads out of it"})
        kind = kind_of(names[-1]) if names else ""
        if member.is_dir() or any(map(is_hidden, names)) or kind not in TAKEN:
            return None
        if kind in ARCHIVES:
            return insert(tree, names[:-1], {names[-1]: f"{names[-1]}: {NOT_OPENED}"})
        most = LARGEST if kind == ".ipynb" else LARGEST_ZIP
        content, problem = self._content(archive, member, min(most, self.left[self.who]))
        if kind == ".zip" and not problem:
            if depth >= DEEPEST:
                problem = f"{names[-1]}: zip files are nested too deeply"
            else:
                inner, problem = self.tree(io.BytesIO(content), depth + 1)
                insert(tree, names, inner)
                names = [*names, ""] if problem else names
                problem = problem and f"{names[-2]}: {problem}"
                if not problem:
                    return None
        what = problem or self._kept(content)
        return insert(tree, names[:-1], {names[-1]: what})

    def _content(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int
    ) -> tuple[bytes, str]:
        if member.flag_bits & 1:
            return b"", f"{name_of(member)}: it has a password"
        try:
            with archive.open(member) as file:
                content = file.read(most + 1)
        except Exception as error:  # as above
            return b"", f"{name_of(member)}: it cannot be read ({type(error).__name__})"
        if len(content) > most:
            return b"", f"{name_of(member)}: it is larger than {most // 2**20} MB"
        self.left[self.who] -= len(content)
        return content, ""

    def _kept(self, content: bytes) -> Path:
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}.ipynb"
        if not path.is_file():
            write_whole(path, lambda temporary: temporary.write_bytes(content))
        return path


def parts_of(member: zipfile.ZipInfo) -> list[str]:
    """The folders and the name of a member."""
    return [part for part in re.split(r"[/\\]", name_of(member)) if part not in ("", ".")]


def name_of(member: zipfile.ZipInfo) -> str:
    """A member's name; UTF-8 is recognised where the file does not say that it is.

    Without its flag a name is in IBM's code page 437 (APPNOTE, appendix D); some programs write UTF-8 there.
    """
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return member.filename


def insert(tree: Tree, folders: list[str], what: Tree) -> None:
    """Put entries into a folder of a tree; folders of one name become one."""
    for name in folders:
        inner = tree.setdefault(name, {})
        tree = inner if isinstance(inner, dict) else {}
    for name, new in what.items():
        old = tree.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            for inside, entry in new.items():
                insert(old, [], {inside: entry})
        else:
            tree[name] = new
