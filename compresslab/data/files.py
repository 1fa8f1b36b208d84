"""Where files come from: the folder in COMPRESSLAB_DATA, the user cache, or the data set's own home.

A file is written under a temporary name and renamed once it is whole, so that an interrupted run leaves
no broken cache. A download is checked against a known hash (pooch does that, and the temporary name).
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pooch


def cache_folder() -> Path:
    """COMPRESSLAB_CACHE, else the user's cache folder for compresslab; not created here."""
    override = named_path("COMPRESSLAB_CACHE")
    return override or Path(platformdirs.user_cache_dir("compresslab"))


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


def find(folder: str, names: list[str]) -> Path | None:
    """The folder that holds all `names`: COMPRESSLAB_DATA, its sub-folder, or the cache's."""
    given = named_path("COMPRESSLAB_DATA")
    candidates = [given / folder, given] if given else []
    for candidate in [*candidates, cache_folder() / folder]:
        if all((candidate / name).is_file() for name in names):
            return candidate
    return None


def fetch(url: str, name: str, folder: str, known_hash: str, **options: object) -> Path:
    """Download one file into the cache unless it lies there with the right hash.

    Raises:
        FileNotFoundError: if it cannot be had, with the URL and how to bring the file by hand.
    """
    target = cache_folder() / folder
    try:
        pooch.retrieve(url, known_hash=known_hash, fname=name, path=target, **options)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name} is neither in COMPRESSLAB_DATA nor in {target}, and fetching {url} failed: "
            f"{error}. Without a network, put the file into a folder '{folder}' and name the folder "
            "above it in COMPRESSLAB_DATA."
        ) from error
    return target
