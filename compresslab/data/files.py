"""Where files come from: the folder in COMPRESSLAB_DATA, the user cache, or the data set's own home.

A download is checked against a known hash, and written under a temporary name first (pooch does both).
"""

from pathlib import Path

import platformdirs
import pooch

from compresslab.writing import named_path


def cache_folder() -> Path:
    """COMPRESSLAB_CACHE, else the user's cache folder for compresslab; not created here."""
    override = named_path("COMPRESSLAB_CACHE")
    return override or Path(platformdirs.user_cache_dir("compresslab"))


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
