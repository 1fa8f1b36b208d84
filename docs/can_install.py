"""Whether the course can be installed with this Python on this machine: `make` asks before it downloads.

Runs with any Python 3, so it uses nothing that is newer than 3.6.
"""

import platform
import sys

OLDEST, NEWEST = (3, 11), (3, 13)


def obstacle(version: tuple, system: str, machine: str) -> str:
    """Why it cannot, in words; "" if it can.

    Args:
        version: (major, minor) of Python.
        system: as `platform.system()` says it.
        machine: as `platform.machine()` says it.
    """
    if not OLDEST <= version <= NEWEST:
        return (
            "Python {}.{} does not do: the course needs {}.{} to {}.{}, for which Numba and the pinned torch "
            "have wheels. Name another one, such as `make lab PYTHON=python3.13`."
        ).format(*version, *OLDEST, *NEWEST)
    if system == "Darwin" and machine == "x86_64":
        return (
            "There is no wheel of the pinned torch for Macs with an Intel processor (the last one was 2.2). "
            "Work in the devcontainer (.devcontainer/), or on a JupyterHub or in Colab as the site's buttons "
            "do. On an Apple processor, use a Python that is built for it (arm64), not one under Rosetta."
        )
    return ""


if __name__ == "__main__":
    said = obstacle(sys.version_info[:2], platform.system(), platform.machine())
    if said:
        sys.exit(said)
