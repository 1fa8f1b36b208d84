"""Files: written whole or not at all, the error for one that cannot be read, and paths from the environment.

A file is written under a temporary name beside its place and renamed once it is whole, so that an interrupted
run leaves nothing broken. It keeps what the one before it was allowed, and its group.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


class FileError(ValueError):
    """A file that is not whole, is of another format, or does not fit; names the file and what is wrong."""


def named_path(variable: str) -> Path | None:
    """The path that an environment variable names, ~ being the user's home; None if it is not set."""
    text = os.environ.get(variable)
    return Path(text).expanduser() if text else None


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path beside `path`, then rename: all of the file or none.

    A link stays a link, and what it leads to is written. Permissions and group stay those of the file.

    Raises:
        PermissionError: if the file is write-protected.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
        raise PermissionError(f"{path} is write-protected")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        write(Path(name))
        _keep_group(path, name)
        os.chmod(name, _mode(path))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _keep_group(path: Path, temporary: str) -> None:
    """Give a file's group to what takes its place, where there is such a thing and it is allowed."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(temporary, -1, path.stat().st_gid)


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask


UMASK = _umask()


def _mode(path: Path) -> int:
    """A file's permissions: those that it has, else any new file's. A temporary file is its owner's alone."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0o666 & ~UMASK
