"""Submissions as they come: folders, files, a learning platform's download, zip files that are hostile."""

import io
import zipfile
from pathlib import Path

import pytest

from compresslab.classroom.exercises import LABS
from compresslab.classroom.grading import collect, unpack

LAB = "12_capstone"
ROOT = Path(__file__).parents[3]


def put(place, *names, text="{}"):
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}{name}" if text == "{}" else text)


def zipped(files):
    """A zip file's bytes from names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def found(place, tmp_path):
    return collect.submissions(place, LAB, tmp_path / "unpacked")


def texts(place, tmp_path):
    """What each learner has handed in."""
    return {
        who: f.path.read_text() if f.path.is_file() else None
        for who, f in found(place, tmp_path).items()
    }


def test_a_labs_name_is_its_files_name():
    assert {f"{name}.ipynb" for name in LABS} <= {p.name for p in (ROOT / "labs").iterdir()}


# ---- folders and files ---------------------------------------------------------------------------
def test_learners_are_found_by_folder_and_by_file(tmp_path):
    place = tmp_path / "in"
    put(place, "alice/12_capstone.ipynb", "alice/11_llm_weights.ipynb", "zoë/my_notebook.ipynb")
    put(place, "=1+1.ipynb", "notes.txt", ".hidden/12_capstone.ipynb", "Bob.IPYNB")
    assert {n: f.path.name for n, f in found(place, tmp_path).items()} == {
        "=1+1": "=1+1.ipynb",
        "Bob": "Bob.IPYNB",
        "alice": "12_capstone.ipynb",
        "zoë": "my_notebook.ipynb",
    }


CHOICES = {
    "12_capstone.ipynb": ["12_capstone (1).ipynb", "12_capstone.ipynb", "12_try.ipynb"],
    "12_Capstone.ipynb": ["12_Capstone.ipynb", "11_llm_weights.ipynb"],
    "12_capstone-Copy1.ipynb": ["12_capstone-Copy1.ipynb", "12.ipynb"],
    "top/12_capstone.ipynb": ["top/(old)/12_capstone.ipynb", "top/12_capstone.ipynb"],
    "work/12_capstone.ipynb": [
        *(".Trash-1000/files/12_capstone.ipynb", ".local/share/Trash/files/12_capstone.ipynb"),
        *("__MACOSX/12_capstone.ipynb", ".ipynb_checkpoints/12_capstone.ipynb"),
        "work/12_capstone.ipynb",
    ],
    "12_capstone.ipynb/12_capstone.ipynb": ["12_capstone.ipynb/12_capstone.ipynb"],
    "attempt 2/12_capstone.ipynb": ["attempt 1/12_capstone.ipynb", "attempt 2/12_capstone.ipynb"],
    None: ["a.ipynb", "b.ipynb"],
}


@pytest.mark.parametrize("wanted,names", CHOICES.items())
def test_the_notebook_that_is_meant_is_found_or_missed_with_a_row(tmp_path, wanted, names):
    put(tmp_path / "in" / "ann", *names)
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    if wanted is None:
        assert not chosen.path.exists()
    else:
        assert chosen.path == tmp_path / "in" / "ann" / wanted


def test_what_was_not_taken_is_told(tmp_path):
    put(tmp_path / "in" / "ann", "12_capstone.ipynb", "older/12_capstone.ipynb")
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    assert chosen.remark == "12_capstone.ipynb was graded, not older/12_capstone.ipynb"


def test_an_empty_folder_is_a_submission_that_is_missing(tmp_path):
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    assert not chosen.path.exists()


@pytest.mark.parametrize("other", ["same.ipynb", "same.zip", "same.rar"])
def test_a_learner_with_two_submissions_is_missing_and_all_others_are_there(tmp_path, other):
    put(tmp_path / "in", "same/12_capstone.ipynb", other, "ann.ipynb")
    both = found(tmp_path / "in", tmp_path)
    assert both["ann"].path.is_file()
    assert not both["same"].path.exists()
    assert both["same"].remark == f"two submissions, same and {other}: leave one of them"


@pytest.mark.parametrize("name", ["bob.rar", "bob.7z", "bob.tar.gz", "bob/work.rar"])
def test_an_archive_of_another_kind_is_a_row_that_says_so(tmp_path, name):
    put(tmp_path / "in", name, "ann.ipynb")
    bob = found(tmp_path / "in", tmp_path)["bob"]
    assert not bob.path.exists()
    assert "only zip files are" in bob.remark


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("name", ["eva.ipynb.txt", "eva.ipynb.json", "eva/12_capstone.ipynb.txt"])
def test_a_notebook_that_a_browser_renamed_is_one(tmp_path, name):
    put(tmp_path / "in", name, text="eva")
    assert texts(tmp_path / "in", tmp_path) == {"eva": "eva"}


def test_results_that_were_put_beside_the_submissions_are_none(tmp_path):
    put(tmp_path / "in", "ann/12_capstone.ipynb", "marks.csv", "marks.csv.records/run.json")
    assert list(found(tmp_path / "in", tmp_path)) == ["ann"]


def test_where_nothing_is_there_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError, match="no notebook of lab '12_capstone'"):
        found(tmp_path / "in", tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        found(tmp_path / "nothing", tmp_path)
    put(tmp_path, "marks.csv")
    with pytest.raises(ValueError, match="folder must be a folder or a zip file"):
        found(tmp_path / "marks.csv", tmp_path)


@pytest.mark.attack("files")
def test_links_are_not_followed(tmp_path):
    put(tmp_path / "secret", "12_capstone.ipynb")
    (tmp_path / "in" / "ann").mkdir(parents=True)
    (tmp_path / "in" / "ann" / "there").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "bob").symlink_to(tmp_path / "secret")
    put(tmp_path / "in", "eve.ipynb")
    assert [f.path.exists() for f in found(tmp_path / "in", tmp_path).values()] == [False, True]


# ---- platforms -----------------------------------------------------------------------------------
MOODLE = {
    "Ada Lovelace_4711_assignsubmission_file_/12_capstone.ipynb": "ada",
    "Ada Lovelace_4711_assignsubmission_onlinetext_/onlinetext.html": "hello",
    "Ana María_4712_assignsubmission_file_12_capstone.ipynb": "ana",
    "Bo_4713_assignsubmission_file_/work.zip": zipped({"work/12_capstone.ipynb": "bo"}),
}
CANVAS = {
    "lovelaceada_4711_90210_12_capstone.ipynb": "first",
    "lovelaceada_LATE_4711_90377_12_capstone-1.ipynb": "second",
    "turing_4712_90211_my_work.ipynb": "alan",
}
BLACKBOARD = {
    "Lab 12_ada_attempt_2026-03-01-09-30-00_12_capstone.ipynb": "first",
    "Lab 12_ada_attempt_2026-03-01-10-00-00_12_capstone.ipynb": "second",
    "Lab 12_ada_attempt_2026-02-28-23-59-59_12_capstone.ipynb": "before",
    "Lab 12_ada_attempt_2026-03-01-10-00-00.txt": "what was said of it",
    "Lab_12_capstone_alan_attempt_2026-03-01-09-30-00_my_work.ipynb": "alan",
}
GRADESCOPE = {
    "assignment_77_export/submission_metadata.yml": "submission_1: {}",
    "assignment_77_export/submission_1/12_capstone.ipynb": "ada",
    "assignment_77_export/submission_2/work.zip": zipped({"12_capstone.ipynb": "bo"}),
}
BY_NAME = {"ada": "second", "alan": "alan"}
BY_NUMBER = {"submission_1": "ada", "submission_2": "bo"}
ADA_MOODLE = {"Ada Lovelace_4711": "ada", "Ana María_4712": "ana", "Bo_4713": "bo"}
ADA_CANVAS = {"lovelaceada_4711": "second", "turing_4712": "alan"}


@pytest.mark.parametrize(
    "files,wanted", [(MOODLE, ADA_MOODLE), (CANVAS, ADA_CANVAS), (BLACKBOARD, BY_NAME)]
)
@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder around"])
@pytest.mark.honest("downloads")
def test_a_platforms_download_is_read_as_it_comes(tmp_path, files, wanted, form):
    place = tmp_path / "in"
    if form == "folder":
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            raw = content.encode() if isinstance(content, str) else content
            (place / name).write_bytes(raw)
    else:
        around = "submissions/" if "around" in form else ""
        place = tmp_path / "download.zip"
        more = {f"__MACOSX/{around}._x.ipynb": "junk"}
        place.write_bytes(zipped({around + n: c for n, c in files.items()} | more))
    assert texts(place, tmp_path) == wanted


@pytest.mark.honest("downloads")
def test_gradescopes_export_is_read_as_it_comes(tmp_path):
    (tmp_path / "export.zip").write_bytes(zipped(GRADESCOPE))
    assert texts(tmp_path / "export.zip", tmp_path) == BY_NUMBER


@pytest.mark.honest("downloads")
def test_of_two_attempts_the_last_is_graded_and_that_is_told(tmp_path):
    place = tmp_path / "in"
    put(place, *CANVAS)
    remark = found(place, tmp_path)["lovelaceada_4711"].remark
    assert remark == "of several attempts the last was graded"


def test_an_attempt_that_came_later_under_another_name_is_told(tmp_path):
    put(tmp_path / "in", "x_4711_90210_12_capstone.ipynb", "x_4711_90377_final.ipynb")
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    assert "final.ipynb was handed in later" in chosen.remark


N = "12_capstone.ipynb"
ZIPS = {
    "each a zip file": {"alice.zip": {N: "alice"}, "bob.zip": {N: "bob"}},
    "Canvas": {"alice_4711_90210_w.zip": {N: "alice"}, "bob_4712_90211_w.zip": {N: "bob"}},
    "Moodle": {
        "alice_4711_assignsubmission_file_w.zip": {N: "alice"},
        "bob_4712_assignsubmission_file_w.zip": {N: "bob"},
    },
    "Blackboard": {
        "Lab 12_alice_attempt_2026-03-01-09-30-00_w.zip": {N: "alice"},
        "Lab 12_bob_attempt_2026-03-01-09-30-00_w.zip": {N: "bob"},
    },
    "folders with zip files": {
        "alice/1.zip": {f"w/{N}": "alice"},
        "alice/2.zip": {"w/11_x.ipynb": "other"},
        f"bob/{N}": "bob",
    },
    "folders around": {f"dl/subs/alice/{N}": "alice", "dl/subs/bob/w.zip": {N: "bob"}},
    "a text beside the folder": {
        f"subs/alice/{N}": "alice",
        f"subs/bob/{N}": "bob",
        "README.txt": "graded by Friday",
    },
    "a table beside the folder": {
        "subs/alice.ipynb": "alice",
        "subs/bob.ipynb": "bob",
        "worksheet.csv": "Identifier",
    },
}


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("files", ZIPS.values(), ids=ZIPS)
def test_zip_files_in_a_classs_zip_file_are_their_learners(tmp_path, files):
    inner = {n: zipped(c) if isinstance(c, dict) else c for n, c in files.items()}
    (tmp_path / "class.zip").write_bytes(zipped(inner))
    read = texts(tmp_path / "class.zip", tmp_path)
    assert {name.split("_")[0]: text for name, text in read.items()} == {
        "alice": "alice",
        "bob": "bob",
    }


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("around", ["", "subs/"])
def test_names_that_are_numbers_are_learners_and_no_labs(tmp_path, around):
    inner = {f"{around}12_3456.ipynb": "one", f"{around}12_3457.ipynb": "other"}
    (tmp_path / "class.zip").write_bytes(zipped(inner))
    assert texts(tmp_path / "class.zip", tmp_path) == {"12_3456": "one", "12_3457": "other"}


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("files", [MOODLE, CANVAS], ids=["Moodle", "Canvas"])
def test_a_download_that_was_put_into_a_folder_as_it_is_is_opened(tmp_path, files):
    place = tmp_path / "in"
    place.mkdir()
    (place / "download.zip").write_bytes(zipped(files))
    (place / "notes.txt").write_text("due on Friday")
    wanted = ADA_MOODLE if files is MOODLE else ADA_CANVAS
    assert texts(place, tmp_path) == wanted


@pytest.mark.honest("downloads")
def test_one_learners_zip_file_alone_in_a_folder_is_one_learner(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    (place / "alice.zip").write_bytes(zipped({N: "alice", "11_llm_weights.ipynb": "11"}))
    assert texts(place, tmp_path) == {"alice": "alice"}


@pytest.mark.honest("downloads")
def test_a_notebook_of_the_labs_name_comes_before_one_of_its_number(tmp_path):
    put(tmp_path / "in", "x_4711_90210_12_capstone.ipynb", "x_4711_90211_12_try.ipynb")
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    assert chosen.path.name.endswith("12_capstone.ipynb")
    assert "12_try.ipynb was handed in later" in chosen.remark


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("name", ["Copy of 12_capstone.ipynb", "Kopie von 12_capstone.ipynb"])
@pytest.mark.parametrize("beside", ["notes.ipynb", "12_try.ipynb"])
def test_a_copy_under_a_name_that_holds_the_labs_is_the_labs(tmp_path, name, beside):
    put(tmp_path / "in", f"ada/{name}", f"ada/{beside}")
    (chosen,) = found(tmp_path / "in", tmp_path).values()
    assert chosen.path.name == name


def test_somebody_who_handed_in_no_notebook_has_a_row_that_says_so(tmp_path):
    put(tmp_path / "in", "Dan_12_assignsubmission_file_essay.pdf", "ada/12_capstone.ipynb")
    rows = found(tmp_path / "in", tmp_path)
    assert set(rows) == {"Dan_12", "ada"}
    assert not rows["Dan_12"].path.exists()
    assert "essay.pdf is no notebook" in rows["Dan_12"].remark


@pytest.mark.honest("downloads")
def test_a_single_learners_zip_file_is_one_learner(tmp_path):
    inner = {f"alice/{N}": "alice", "alice/11_llm_weights.ipynb": "11"}
    (tmp_path / "class.zip").write_bytes(zipped(inner))
    assert texts(tmp_path / "class.zip", tmp_path) == {"alice": "alice"}


@pytest.mark.honest("downloads")
def test_names_of_users_may_hold_an_underscore(tmp_path):
    names = [f"Lab 12_{who}_l_attempt_2026-03-01-09-30-00_{N}" for who in ("ada", "bob")]
    put(tmp_path / "in", *names)
    assert list(texts(tmp_path / "in", tmp_path)) == ["ada_l", "bob_l"]


@pytest.mark.attack("files")
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_what_one_hands_in_takes_no_room_from_another(tmp_path, form):
    many = zipped({N: "eve"} | {f"{i}.txt": "" for i in range(19_990)})
    files = {"eve.zip": many} | {
        f"{who}.zip": zipped({N: who} | {f"d/{i}.txt": "" for i in range(20)})
        for who in ("adam", "frank", "zoe")
    }
    place = tmp_path / "in"
    if form == "zip":
        place = tmp_path / "class.zip"
        place.write_bytes(zipped(files))
    else:
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
    assert texts(place, tmp_path) == {who: who for who in ("adam", "eve", "frank", "zoe")}


@pytest.mark.attack("files")
@pytest.mark.parametrize(
    "name,who",
    [
        (f"Ada_4711_assignsubmission_file_x_4712_assignsubmission_file_{N}", "Ada_4711"),
        (f"L 12_ada_attempt_2026-03-01-09-30-00_y_bob_attempt_2026-03-05-00-00-00_{N}", "ada"),
        (f"ada_4711_90210_bob_4712_90211_{N}", "ada_4711"),
    ],
)
def test_the_name_of_a_file_makes_nobody_somebody_else(tmp_path, name, who):
    put(tmp_path / "in", name)
    assert list(texts(tmp_path / "in", tmp_path)) == [who]


def test_a_learners_folder_may_hold_any_file(tmp_path):
    put(tmp_path / "in", f"ann/{N}", "ann/run.json", f"bob/{N}")
    assert list(texts(tmp_path / "in", tmp_path)) == ["ann", "bob"]


@pytest.mark.attack("files")
def test_a_long_directory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    eve = zipped({f"{i}.txt": "" for i in range(90_000)})
    opened = []
    original = zipfile.ZipFile

    def watched(*arguments, **options):
        opened.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(unpack.zipfile, "ZipFile", watched)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eve.zip").write_bytes(eve + b"" if len(eve) else b"")
    monkeypatch.setattr(unpack, "ENTRY", 46 + 5)
    found_ = found(tmp_path / "in", tmp_path)
    assert "more than" in found_["eve"].remark
    assert opened == []


@pytest.mark.attack("files")
def test_a_broken_part_of_a_classs_zip_file_costs_its_learner_alone(tmp_path):
    files = {f"ann/{N}": "ann", "eve.zip": nested(5), f"bob/{N}": b"\0" * (30 * 2**20)}
    (tmp_path / "class.zip").write_bytes(zipped(files))
    both = found(tmp_path / "class.zip", tmp_path)
    assert both["ann"].path.read_text() == "ann"
    assert "nested too deeply" in both["eve"].remark
    assert "larger than 20 MB" in both["bob"].remark


@pytest.mark.honest("downloads")
def test_a_learners_own_zip_files_are_opened(tmp_path):
    inner = zipped({"12_capstone.ipynb": "deep"})
    put(tmp_path / "in", "bob/11_x.ipynb")
    (tmp_path / "in" / "ann.zip").write_bytes(zipped({"a/b/work.ZIP": inner}))
    (tmp_path / "in" / "bob" / "all.zip").write_bytes(inner)
    assert texts(tmp_path / "in", tmp_path) == {"ann": "deep", "bob": "deep"}


# ---- hostile zip files ---------------------------------------------------------------------------
def handed_in(tmp_path, content):
    place = tmp_path / "in"
    place.mkdir(exist_ok=True)
    (place / "eve.zip").write_bytes(content)
    put(place, "ann.ipynb")
    both = found(place, tmp_path)
    assert both["ann"].path.is_file()
    return both["eve"]


def nested(depth):
    content = zipped({"12_capstone.ipynb": "x"})
    for _ in range(depth):
        content = zipped({"inner.zip": content})
    return content


def with_password():
    content = bytearray(zipped({"12_capstone.ipynb": "secret"}))
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):
        content[content.index(mark) + (6 if mark[2] == 3 else 8)] |= 1
    return bytes(content)


HOSTILE = {
    "a bomb": (zipped({"12_capstone.ipynb": b"\0" * (30 * 2**20)}), "larger than 20 MB"),
    "a bomb in a zip": (
        zipped({"a.zip": zipped({"b.zip": b"\0" * (80 * 2**20)})}),
        "larger than 64 MB",
    ),
    "nested without end": (nested(5), "nested too deeply"),
    "many files": (zipped({f"{i}.txt": "" for i in range(21_000)}), "more than"),
    "no zip file": (b"PK\x03\x04 nonsense", "no zip file"),
    "cut off": (zipped({"12_capstone.ipynb": "x" * 1000})[:100], "no zip file"),
    "a password": (with_password(), "password"),
    "out of the folder": (zipped({"../../12_capstone.ipynb": "x"}), "leads out of it"),
}


@pytest.mark.parametrize("content,told", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.attack("files")
def test_a_hostile_zip_file_is_a_submission_that_is_missing(tmp_path, content, told):
    eve = handed_in(tmp_path, content)
    assert not eve.path.exists()
    assert told in eve.remark
    outside = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert all(p.is_relative_to(tmp_path / "in") for p in outside)


@pytest.mark.parametrize("name", ["/etc/12_capstone.ipynb", "C:\\x\\12_capstone.ipynb"])
@pytest.mark.attack("files")
def test_absolute_names_are_names_of_ours(tmp_path, name):
    eve = handed_in(tmp_path, zipped({name: "x"}))
    assert eve.path.parent == tmp_path / "unpacked"
    assert eve.path.read_text() == "x"


@pytest.mark.attack("files")
def test_a_wrong_size_in_the_header_is_not_believed(tmp_path):
    content = bytearray(zipped({"12_capstone.ipynb": b"\0" * (30 * 2**20)}))
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (5).to_bytes(4, "little")
    eve = handed_in(tmp_path, bytes(content))
    assert not eve.path.exists() or eve.path.stat().st_size <= 20 * 2**20


# ---- nobody is passed over -------------------------------------------------------------------------
@pytest.mark.honest("downloads")
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_who_handed_in_a_script_or_a_document_has_a_row_that_says_so(tmp_path, form):
    files = {"ann/12_capstone.ipynb": "ann", "bob.ipynb": "bob"}
    files |= {"carol.py": "x = 1", "dan.pdf": "%PDF", "grades.csv": "a", "readme.pdf": "%PDF"}
    place = tmp_path / "in"
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)
    if form == "zip":
        place = tmp_path / "class.zip"
        place.write_bytes(zipped(files))
    rows = found(place, tmp_path)
    assert list(rows) == ["ann", "bob", "carol", "dan"]
    assert rows["carol"].remark == "carol.py is no notebook"
    assert rows["dan"].remark == "dan.pdf is no notebook"
    assert not rows["carol"].path.exists()


@pytest.mark.honest("downloads")
def test_a_zip_file_for_large_files_is_read(tmp_path, monkeypatch):
    """Written with the records of ZIP64, whose directory's size stands elsewhere (APPNOTE 4.3.14)."""
    place = tmp_path / "in"
    place.mkdir()
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    (place / "ann.zip").write_bytes(zipped({"12_capstone.ipynb": "ann", "more.txt": "x"}))
    monkeypatch.undo()
    content = bytearray((place / "ann.zip").read_bytes())
    assert b"PK\x06\x06" in content
    end = content.rfind(b"PK\x05\x06")
    content[end + 12 : end + 20] = b"\xff" * 8  # size and place, as for very large ones
    (place / "ann.zip").write_bytes(content)
    assert texts(place, tmp_path) == {"ann": "ann"}


@pytest.mark.attack("files")
def test_a_directory_that_says_it_is_large_is_not_read(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    content = bytearray(zipped({"12_capstone.ipynb": "ann"}))
    end = content.rfind(b"PK\x05\x06")
    large = b"PK\x06\x06" + bytes(36) + (2**40).to_bytes(8, "little") + bytes(8)
    content[end + 12 : end + 16] = b"\xff" * 4
    content[end:end] = large
    (place / "eve.zip").write_bytes(content)
    (place / "ann.ipynb").write_text("ann")
    rows = found(place, tmp_path)
    assert "more than 20000 files" in rows["eve"].remark
    assert rows["ann"].path.is_file()


@pytest.mark.honest("downloads")
@pytest.mark.parametrize("name", ["Ana María", "李雷", "Jürgen Öztürk"])
def test_names_in_utf8_are_read_where_the_zip_file_does_not_say_so(tmp_path, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for who in (name, "bob"):
            archive.writestr(f"{who}/12_capstone.ipynb", who)
    content = buffer.getvalue()
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(sign)
        while at >= 0:
            flag = int.from_bytes(content[at + place : at + place + 2], "little") & ~0x800
            content = content[: at + place] + flag.to_bytes(2, "little") + content[at + place + 2 :]
            at = content.find(sign, at + 4)
    (tmp_path / "class.zip").write_bytes(content)
    assert texts(tmp_path / "class.zip", tmp_path) == {name: name, "bob": "bob"}


@pytest.mark.honest("downloads")
def test_names_in_the_old_code_page_stay_as_they_are(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("J_rgen/12_capstone.ipynb")
        archive.writestr(info, "j")
        archive.writestr("bob/12_capstone.ipynb", "bob")
    content = buffer.getvalue().replace(b"J_rgen", b"J\x81rgen")
    (tmp_path / "class.zip").write_bytes(content)
    assert texts(tmp_path / "class.zip", tmp_path) == {"Jürgen": "j", "bob": "bob"}
