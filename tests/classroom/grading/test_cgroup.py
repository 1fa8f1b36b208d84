"""Control groups: made where they may be, counted in, and gone afterwards; elsewhere there is none."""

import os
import signal
import subprocess
import sys

import pytest

from compresslab.classroom.grading.cgroup import Group, open_group


@pytest.fixture
def group():
    group = open_group()
    if group is None:
        pytest.skip("no control group may be made here")
    yield group
    group.end()


def test_a_command_runs_in_the_group_and_the_group_ends_it(group):
    command = group.entering(["sleep", "60"])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not all(str(process.pid) in p.read_text().split() for p in group.entries):
            assert process.poll() is None
        group.end()
        assert process.wait(5) == -9
    assert not any(folder.exists() for folder in group.folders.values())


def test_arguments_pass_as_they_are(group):
    said = ["printf", "%s|", "a b", "$x", "", "'"]
    done = subprocess.run(group.entering(said), capture_output=True, text=True, check=True)
    assert done.stdout == "a b|$x||'|"


def test_the_kernel_refuses_one_process_too_many(group):
    group.limit(4, 2**30)
    before = group.refused()
    script = "sleep 5 & sleep 5 & sleep 5 & sleep 5 & sleep 5 & sleep 5 & wait"
    done = subprocess.run(group.entering(["/bin/bash", "-c", script]), capture_output=True)
    assert done.returncode != 0
    assert group.refused() > before


def test_the_kernel_says_when_it_killed_for_bytes(group):
    group.limit(50, 2**26)
    for name in ("memory.swap.max", "memory.swappiness"):  # else the bytes may move to the disk
        if (group.folders["memory"] / name).is_file():
            (group.folders["memory"] / name).write_text("0")
    assert (group.killed(), group.full()) == (0, 0)
    script = [sys.executable, "-c", "b = b'1' * 2**28"]
    done = subprocess.run(group.entering(script), capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert group.killed() == 1
    assert group.full() > 0


@pytest.mark.parametrize(
    ("version", "name", "text"),
    [
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        (2, "memory.events", "low 0\nhigh 0\nmax 41\noom 4\noom_kill 3\noom_group_kill 0\n"),
    ],
)
def test_both_versions_say_how_many_were_killed_and_by_which_limit(tmp_path, version, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / "memory.failcnt").write_text("41\n")
    group = Group({"memory": tmp_path}, version)
    assert (group.killed(), group.full()) == (3, 41)


# ---- version 2, as files: not every machine has it ------------------------------------------------
def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def second(tmp_path):
    """A tree of version 2 in which user.slice hands on what it counts, and the session below it does not."""
    top = tmp_path / "fs"
    written(top, cgroup__subtree_control="cpu memory pids\n")
    written(top / "user.slice", cgroup__subtree_control="memory pids\n")
    written(top / "user.slice" / "session", cgroup__subtree_control="\n")
    mounts, own = tmp_path / "mountinfo", tmp_path / "cgroup"
    mounts.write_text(f"31 23 0:27 / {top} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n")
    own.write_text("0::/user.slice/session\n")
    return mounts, own, top


def test_in_version_2_it_lies_below_the_nearest_group_that_hands_on(second, monkeypatch):
    mounts, own, top = second
    real = os.mkdir

    def mkdir(path, *rest, **named):
        real(path, *rest, **named)
        if "grading-" in str(path):  # what the kernel puts there
            with open(os.path.join(path, "pids.current"), "w") as file:
                file.write("3\n")
            with open(os.path.join(path, "cgroup.procs"), "w") as file:
                file.write("")

    monkeypatch.setattr(os, "mkdir", mkdir)
    group = open_group(mounts, own)
    folder = group.folders["pids"]
    assert folder.parent == top / "user.slice"
    assert group.folders["memory"] == folder
    assert group.entries == [folder / "cgroup.procs"]
    group.limit(10, 2**30)
    assert (folder / "pids.max").read_text() == "13"
    assert (folder / "memory.max").read_text() == str(2**30)


@pytest.mark.parametrize("own", ["0::/elsewhere\n", "", "nonsense\n"])
def test_where_no_group_can_be_made_there_is_none(second, own):
    mounts, file, top = second
    for folder in (top, top / "user.slice"):
        (folder / "cgroup.subtree_control").write_text("cpu\n")
    file.write_text(own)
    assert open_group(mounts, file) is None
    assert not list(top.rglob("grading-*"))


def test_files_that_are_not_there_make_no_group(tmp_path):
    assert open_group(tmp_path / "no", tmp_path / "no") is None


def test_files_in_two_folders_are_both_entered(tmp_path):
    group = Group({"pids": tmp_path / "p", "memory": tmp_path / "m"}, 1)
    for folder in group.folders.values():
        folder.mkdir()
    done = subprocess.run(
        group.entering(["sh", "-c", "echo $$"]), capture_output=True, text=True, check=True
    )
    assert [path.read_text() for path in group.entries] == [done.stdout] * 2
