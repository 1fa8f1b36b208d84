"""What the kernel tells the judge from outside of a sandbox: who is stopped."""

from pathlib import Path


def is_stopped(first: int, deep: int = 2) -> bool:
    """Whether a process, its child or its child's is stopped: bubblewrap, its first process, the worker."""
    try:
        about = Path(f"/proc/{first}/stat").read_text(encoding="utf-8", errors="replace")
        children = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
    except OSError:  # it has ended, or the kernel does not tell
        return False
    # The name in brackets may hold anything, brackets too.
    stopped = about.rpartition(")")[2].split()[0] in "Tt"
    return stopped or (deep > 0 and any(is_stopped(int(child), deep - 1) for child in children))
