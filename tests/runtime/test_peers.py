"""llama.cpp as a peer: it answers, keeps its own time, and refuses by our words."""

import math

import pytest

from compresslab.real.packages import installed
from compresslab.runtime import peers

needs_both = pytest.mark.skipif(
    not peers.llama_cpp_available() or installed("smollm2") is None,
    reason="pip install xllamacpp; compresslab real smollm2",
)


@pytest.fixture(scope="module")
def writer():
    return peers.LlamaCpp(installed("smollm2"), threads=1, context=64)


@needs_both
def test_it_reads_a_prompt_and_writes_tokens_by_its_own_clock(writer):
    prompt, token = writer.milliseconds([1, 2, 3, 4], 8)
    assert 0 < token < math.inf
    assert 0 < prompt < math.inf


@needs_both
@pytest.mark.parametrize("prompt, count", [([], 4), ([1, 2], 0), ([1] * 60, 5)])
def test_what_does_not_fit_is_refused(writer, prompt, count):
    with pytest.raises(ValueError, match="together at most 64"):
        writer.milliseconds(prompt, count)


@pytest.mark.skipif(not peers.llama_cpp_available(), reason="pip install xllamacpp")
@pytest.mark.parametrize("options", [{"threads": 0}, {"context": 1}])
def test_threads_and_context_are_positive(options, tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="threads must be at least 1 and context 2"):
        peers.LlamaCpp(tmp_path / "a.gguf", **options)
    with pytest.raises(FileNotFoundError, match="no file"):
        peers.LlamaCpp(tmp_path / "b.gguf")


def test_without_the_package_the_command_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install xllamacpp"):
        peers.LlamaCpp(tmp_path / "a.gguf")
    assert not peers.llama_cpp_available()
