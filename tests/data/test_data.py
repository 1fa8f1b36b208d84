"""Data sets: shapes, repeatability, damaged files, downloads from a loopback server, real copies."""

import functools
import gzip
import http.server
import io
import os
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from compresslab.data import Examples, cifar10, files, glyphs, load, mnist
from compresslab.writing import write_whole

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = Path(os.environ.get("COMPRESSLAB_DATA", SHARED))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COMPRESSLAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


# ---- glyphs --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [16, 28])
def test_glyphs_have_every_letter_about_equally_often(size):
    data = load("glyphs", size=size, train_size=520)
    assert data.shape == (1, size, size)
    assert len(data.test) >= 4000
    assert data.train.x.dtype == torch.float32
    assert 0 <= float(data.train.x.min()) < float(data.train.x.max()) <= 1
    assert torch.bincount(data.train.y, minlength=26).tolist() == [20] * 26


def test_glyphs_are_the_same_for_a_seed_and_others_for_another():
    one, two = (glyphs.draw_split(16, 60, 3)["train_x"] for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, glyphs.draw_split(16, 60, 4)["train_x"])


def test_no_test_font_is_used_in_training():
    assert not set(glyphs.TEST_FONTS) & set(glyphs.TRAIN_FONTS)
    assert len(glyphs.TEST_FONTS) + len(glyphs.TRAIN_FONTS) == 22


def test_a_damaged_cache_is_drawn_anew(folder):
    first = load("glyphs", train_size=60)
    (cached,) = files.cache_folder().glob("glyphs-*.npz")
    for content in (b"", b"not a zip file", cached.read_bytes()[:5000]):
        cached.write_bytes(content)
        assert torch.equal(load("glyphs", train_size=60).train.x, first.train.x)
    assert cached.stat().st_size > 5000


def test_glyphs_need_no_place_to_write(folder, monkeypatch):
    blocker = folder.parent / "file"
    blocker.write_text("")
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(blocker / "below a file"))
    assert len(load("glyphs", train_size=60).train) == 60


@pytest.mark.parametrize(
    "arguments,words",
    [
        (
            {"name": "letters"},
            "name must be one of glyphs, lowercase, digits, mnist, cifar10, got 'letters'",
        ),
        ({"size": 20}, "size must be 16 or 28 for glyphs, got 20"),
        ({"size": 3}, "size must be 4 to 64"),
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
    ],
)
def test_bad_requests_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        load(**arguments)


def test_the_environment_names_the_default(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATASET", "digits")
    assert load().name == "digits"


def test_digits_are_scikit_learns():
    data = load("digits")
    assert data.shape == (1, 8, 8)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    assert load("digits", size=16).shape == (1, 16, 16)


def test_examples_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="y must be int64"):
        Examples(torch.zeros(3, 1, 8, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="x must be float32"):
        Examples(torch.zeros(3, 8, 8), torch.zeros(3, dtype=torch.int64))


# ---- mnist files ---------------------------------------------------------------------------------
def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, train=50, test=20):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(count) % 10))


def test_mnist_is_read_from_the_data_folder(folder):
    write_mnist(folder / "mnist")
    data = load("mnist", train_size=30)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 5, 20)
    assert data.shape == (1, 28, 28)


@pytest.mark.parametrize(
    "spoil,words",
    [
        (lambda b: b[: len(b) // 2], "expected a whole gzip file"),
        (lambda b: b"", "expected IDX magic|expected a whole gzip"),
        (lambda b: b"junk", "expected a whole gzip file"),
        (lambda b: gzip.compress(gzip.decompress(b)[:-1]), "expected 39,200 bytes.*found 39,199"),
        (lambda b: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(b)[4:]), "expected IDX magic"),
        (
            lambda b: gzip.compress(b"\0\0\x08\3" + struct.pack(">3I", 2**31, 2**31, 4)),
            "expected 18,446,744,073,709,551,616 bytes",
        ),
        (lambda b: idx(np.zeros((50, 27, 28))), "expected as many 28x28 train images"),
        (lambda b: idx(np.zeros((49, 28, 28))), "expected as many 28x28 train images"),
    ],
)
def test_a_damaged_mnist_file_is_named(folder, spoil, words):
    write_mnist(folder / "mnist")
    path = folder / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=words) as error:
        load("mnist")
    assert "mnist" in str(error.value)


def test_a_label_that_is_no_digit_is_refused(folder):
    write_mnist(folder / "mnist")
    (folder / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.full(50, 11)))
    with pytest.raises(ValueError, match=r"labels 0\.\.9, found 11"):
        load("mnist")


# ---- cifar files ---------------------------------------------------------------------------------
def cifar_batch(count, label=3):
    records = np.random.default_rng(0).integers(0, 256, (count, cifar10.RECORD)).astype(np.uint8)
    records[:, 0] = label
    return records.tobytes()


def write_cifar(folder, batches=2):
    folder.mkdir(parents=True)
    for name in [*cifar10.BATCHES[:batches], "test_batch.bin"]:
        (folder / name).write_bytes(cifar_batch(20))


def test_cifar_reads_the_batches_that_are_there_and_says_so(folder):
    write_cifar(folder / cifar10.FOLDER)
    data = load("cifar10")
    assert len(data.train) + len(data.val) == 40
    assert data.note == "40 of 50,000 training images"
    assert data.shape == (3, 32, 32)
    assert "40 of 50,000" in repr(data)


@pytest.mark.parametrize(
    "content,words",
    [
        (b"", "expected a multiple of 3073 bytes, found 0"),
        (cifar_batch(20)[:-7], "expected a multiple of 3073 bytes, found 61,453"),
        (cifar_batch(20, label=10), r"expected labels 0\.\.9, found 10"),
    ],
)
def test_a_damaged_cifar_batch_is_named(folder, content, words):
    write_cifar(folder / cifar10.FOLDER)
    (folder / cifar10.FOLDER / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        load("cifar10")
    assert "data_batch_1.bin" in str(error.value)


# ---- downloads, from a server of our own ---------------------------------------------------------
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield tmp_path / "www", f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join(10)


def md5(path):
    import hashlib

    return hashlib.md5(path.read_bytes()).hexdigest()


def test_mnist_is_fetched_checked_and_kept(folder, server, monkeypatch):
    www, url = server
    write_mnist(www)
    monkeypatch.setattr(mnist, "HOME", url)
    monkeypatch.setattr(mnist, "MD5", {name: md5(www / name) for name in mnist.MD5})
    assert len(load("mnist").test) == 20
    for path in www.iterdir():
        path.unlink()
    assert len(load("mnist").test) == 20, "the second call reads the cache"


def test_a_download_with_another_content_is_refused_and_not_kept(folder, server, monkeypatch):
    www, url = server
    write_mnist(www)
    monkeypatch.setattr(mnist, "HOME", url)
    with pytest.raises(FileNotFoundError, match="COMPRESSLAB_DATA"):
        load("mnist")
    assert not [p for p in files.cache_folder().rglob("*") if p.is_file()]


def test_without_files_or_network_the_error_says_what_to_do(folder, monkeypatch):
    monkeypatch.setattr(mnist, "HOME", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match="put the file into a folder 'mnist'"):
        load("mnist")


def test_cifar_is_fetched_and_unpacked(folder, server, monkeypatch):
    www, url = server
    archive = www / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in [*cifar10.BATCHES, "test_batch.bin"]:
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            content = cifar_batch(10)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "HOME", url + archive.name)
    monkeypatch.setattr(cifar10, "MD5", md5(archive))
    data = load("cifar10")
    assert len(data.train) + len(data.val) == 50
    assert data.note == "50 of 50,000 training images" or data.note == ""


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def write(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x.bin", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "chown"), reason="groups are POSIX's")
def test_a_file_that_is_written_anew_keeps_its_group_and_permissions(tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text("before")
    groups = [g for g in (12345, *os.getgroups()) if g != path.stat().st_gid]
    for group in groups:
        try:
            os.chown(path, -1, group)
            break
        except OSError:
            continue
    else:
        pytest.skip("this user has one group and may give no other")
    os.chmod(path, 0o660)
    write_whole(path, lambda place: place.write_text("after"))
    about = path.stat()
    assert (path.read_text(), about.st_gid, about.st_mode & 0o777) == ("after", group, 0o660)


# ---- the real ones -------------------------------------------------------------------------------
@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="no real MNIST in COMPRESSLAB_DATA")
def test_the_real_mnist_has_its_known_counts(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATA", str(REAL))
    data = load("mnist")
    assert (len(data.train) + len(data.val), len(data.test)) == (60_000, 10_000)
    assert torch.bincount(data.test.y).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


@pytest.mark.skipif(
    not (REAL / cifar10.FOLDER).is_dir(), reason="no real CIFAR-10 in COMPRESSLAB_DATA"
)
def test_the_real_cifar10_has_a_thousand_test_images_a_class(monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_DATA", str(REAL))
    data = load("cifar10")
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    assert data.classes[3] == "cat"


def test_lower_case_is_drawn_like_capitals_and_is_another_alphabet(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSLAB_CACHE", str(tmp_path))
    small, capitals = (load(name, train_size=52) for name in ("lowercase", "glyphs"))
    assert "".join(small.classes) == "".join(capitals.classes).lower()
    assert small.train.x.shape == capitals.train.x.shape
    assert torch.equal(small.train.y, capitals.train.y), (
        "the same letters under the same distortions"
    )
    assert not torch.equal(small.train.x, capitals.train.x)
    assert torch.equal(load("lowercase", train_size=52).test.x, small.test.x), "from the cache"
    assert len(list(tmp_path.glob("*.npz"))) == 2
