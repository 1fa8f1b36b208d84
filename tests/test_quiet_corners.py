"""What was silently lost, wrong or raw in quiet corners, as cold reviews found it: each with its kind."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab import training
from compresslab.classroom import progress
from compresslab.classroom.grading.folder import grade_folder
from compresslab.data import Examples, Split
from compresslab.data.glyphs import _read
from compresslab.experiment import begin
from compresslab.runtime.c_source import to_c
from compresslab.runtime.convert import convert, convert_dynamic
from compresslab.runtime.export import export_int8
from compresslab.runtime.sparse import with_sparse_layers
from compresslab.techniques import lora, mixed, prune, scores, sharing
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import QuantConfig

X = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = Examples(X, torch.arange(64) % 5)
QUIET = {"epochs": 1, "progress": False}


def rows():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).eval()


def images():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


# ---- training ----------------------------------------------------------------------------------------
def test_an_optimizer_of_the_original_would_train_nothing_and_is_refused():
    network = images()
    theirs = torch.optim.Adam(network.parameters(), 0.01)
    with pytest.raises(ValueError, match="optimizer must be a function"):
        cl.fit(network, DATA, optimizer=theirs, **QUIET)
    with pytest.raises(ValueError, match="those of another network"):
        training.fit(images(), DATA, optimizer=theirs, **QUIET)
    trained = cl.fit(
        network, DATA, optimizer=lambda copy: torch.optim.Adam(copy.parameters(), 0.01), **QUIET
    )
    assert not torch.equal(trained[0].weight, network[0].weight)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_fit_trains_where_gradients_are_off(off):
    network = images()
    with off():
        trained = cl.fit(network, DATA, **QUIET)
        found = scores.taylor(network, DATA)
    assert not torch.equal(trained[0].weight, network[0].weight)
    assert all(bool(s.isfinite().all()) for s in found.values())


def test_a_frozen_network_is_named_as_what_it_is():
    with pytest.raises(ValueError, match=r"none that is not frozen: model.requires_grad_\(True\)"):
        cl.fit(images().requires_grad_(False), DATA, **QUIET)


@pytest.mark.parametrize(
    "setting",
    [
        *({"lr": float("inf")}, {"lr": float("nan")}, {"weight_decay": float("nan")}),
        *({"batch_size": 2.5}, {"batch_size": "8"}, {"epochs": "2"}, {"lr": "fast"}, {"seed": 1.5}),
        *({"epochs": float("inf")}, {"batch_size": True}, {"weight_decay": -1.0}),
    ],
)
def test_numbers_of_a_training_are_numbers(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        cl.fit(images(), DATA, **QUIET | setting)


def test_numpys_numbers_are_numbers():
    settings = {"batch_size": np.int64(32), "seed": np.int64(1), "lr": np.float32(0.1)}
    cl.fit(images(), DATA, **QUIET | settings)
    assert cl.measure(rows(), (np.int64(64),)).parameters
    assert cl.Quantize(np.int64(4)).settings().weight_bits == 4
    assert cl.Prune(np.float32(0.5)).fraction == 0.5
    assert cl.Share(np.int64(8)).clusters == 8


def test_labels_from_one_are_said_to_be():
    shifted = Examples(X, DATA.y + 1)
    for call in (
        lambda: cl.fit(images(), shifted, **QUIET),
        lambda: cl.evaluate(images(), shifted),
    ):
        with pytest.raises(ValueError, match="got 5: do they begin at 1"):
            call()
    ignored = Examples(X, torch.where(DATA.y > 0, DATA.y, -100))
    for call in (
        lambda: cl.fit(images(), ignored, **QUIET),
        lambda: cl.evaluate(images(), ignored),
    ):
        with pytest.raises(ValueError, match="labels must be 0 or more, got -100"):
            call()


@pytest.mark.parametrize(
    "end", [(nn.AdaptiveMaxPool2d(1),), (nn.Flatten(), nn.Linear(1280, 1)), (nn.Flatten(0),)]
)
def test_answers_that_are_no_logits_have_no_accuracy(end):
    network = nn.Sequential(nn.Conv2d(1, 5, 1), *end).eval()
    for call in (lambda: cl.evaluate(network, DATA), lambda: cl.measure(network, DATA)):
        with pytest.raises(ValueError, match="classes"):
            call()


# ---- kernels and autograd ----------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["dynamic", "sparse", "program"])
def test_no_gradient_ends_in_silence(kind):
    made = {
        "dynamic": lambda: (convert_dynamic(rows()), torch.rand(2, 64)),
        "sparse": lambda: (with_sparse_layers(rows()), torch.rand(2, 64)),
        "program": lambda: (convert(quantize_post_training(images(), QuantConfig(), X)), X[:2]),
    }
    network, x = made[kind]()
    answers = network(x.clone().requires_grad_())
    assert torch.equal(answers, network(x))
    with pytest.raises(RuntimeError, match="has no gradient"):
        answers.sum().backward()
    with torch.no_grad():
        assert not network(x.clone().requires_grad_()).requires_grad


# ---- files -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_shared_values_in_another_format_are_refused_when_saved(dtype, tmp_path):
    path = tmp_path / "shared.safetensors"
    with pytest.raises(ValueError, match="must be float32 to be saved"):
        cl.save(sharing.share_weights(rows(), 8).to(dtype), path)
    assert not path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_no_file_brings_back_is_not_saved(value, tmp_path):
    network = rows()
    network[0].weight.data[0, 0] = value
    with pytest.raises(ValueError, match=r"'0.weight' must be finite"):
        cl.save(network, tmp_path / "broken.safetensors")
    graph = nn.Sequential(nn.Linear(4, 4))
    graph.register_buffer("adjacency", torch.eye(4).to_sparse())
    with pytest.raises(ValueError, match=r"'adjacency' is a sparse tensor.*to_dense"):
        cl.save(graph, tmp_path / "graph.safetensors")
    assert not list(tmp_path.iterdir())


def test_corrections_are_written_whole_through_links_and_not_over_what_is_protected(tmp_path):
    adapted, path, link = lora.add_lora(rows(), 2), tmp_path / "a", tmp_path / "link"
    lora.save(adapted, path)
    link.symlink_to(path)
    lora.save(adapted, link)
    assert link.is_symlink()
    with pytest.raises(FileNotFoundError, match="no file"):
        lora.load_(tmp_path / "none", adapted)
    with pytest.raises(FileNotFoundError, match="no file"):
        lora.load_(tmp_path, adapted)
    if os.name == "posix":
        path.chmod(0o640)
        lora.save(adapted, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(ValueError, match="alpha must be finite"):
        lora.add_lora(rows(), 2, alpha=float("nan"))


def test_a_cache_without_its_parts_is_drawn_anew(tmp_path):
    path = tmp_path / "glyphs.npz"
    np.savez(path, train_x=np.zeros(3))
    assert _read(path) is None
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert _read(path) is None


# ---- techniques --------------------------------------------------------------------------------------
def test_frozen_layers_stay_frozen_when_their_weights_are_shared():
    network = rows()
    network[0].requires_grad_(False)
    shared = sharing.share_weights(network, 8)
    assert not shared[0].centroids.requires_grad
    assert shared[2].centroids.requires_grad
    plain = sharing.unshared(shared)
    assert not plain[0].weight.requires_grad
    assert plain[2].weight.requires_grad


def test_what_is_not_a_number_is_no_budget():
    scan = mixed.sensitivity(rows(), lambda m: 1.0, bits=(4, 8))
    with pytest.raises(ValueError, match="budget must be a number"):
        mixed.search(scan, float("nan"), 0.0)
    with pytest.raises(ValueError, match="base must be a number"):
        mixed.search(scan, 3000, float("nan"))
    broken = mixed.sensitivity(rows(), lambda m: float("nan"), bits=(4, 8))
    with pytest.raises(ValueError, match="got NaN for 0 at 4 bits"):
        mixed.search(broken, 3000, 1.0)
    with pytest.raises(ValueError, match="at least one example"):
        scores.activation(images(), DATA.first(0))


@pytest.mark.parametrize(
    "make,said",
    [
        (lambda: cl.Share(0), "clusters"),
        (lambda: cl.Share(2.5), "clusters"),
        (lambda: cl.Share(100_000), "clusters"),
        (lambda: cl.Share(8, epochs=-1), "epochs"),
        (lambda: cl.Prune(0.5, epochs=-1), "epochs"),
        (lambda: cl.Prune(0.5, epochs="2"), "epochs"),
        (lambda: cl.Quantize(4, epochs=-1), "epochs"),
        (lambda: cl.Quantize(8, config=3), "config"),
        (lambda: cl.Distill(3), "build"),
        (lambda: cl.Distill(rows()), "build"),
        (lambda: cl.Binary(None), "build"),
    ],
)
def test_a_stage_is_refused_when_it_is_made(make, said):
    with pytest.raises(ValueError, match=f"{said} must be"):
        make()


def test_an_empty_validation_set_is_none():
    data = Split("x", DATA, DATA.first(0), DATA, tuple("abcde"))
    assert cl.compress(images(), [cl.Prune(0.5)], data, epochs=1, progress=False)


def test_float32_networks_are_compressed_where_float64_is_the_default(tmp_path):
    network = images()
    torch.set_default_dtype(torch.float64)
    try:
        mask = prune.select(scores.magnitude(network), 0.5)
        assert mask.keep
        for stage in (cl.Share(8), cl.Prune(0.5), cl.CutChannels(0.25), cl.Quantize(8)):
            small = cl.compress(network, [stage], DATA, epochs=1, progress=False)
            assert cl.measure(small, (1, 16, 16)).bytes_disk
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["int", "arena", "conv2d", "main", "restrict", "nearest"])
def test_a_c_function_has_a_name_of_its_own(name):
    program = convert(quantize_post_training(images(), QuantConfig(), X))
    with pytest.raises(ValueError, match="name must not be a word of C"):
        to_c(program, (1, 16, 16), name)


def test_a_float_network_is_no_simulation(tmp_path):
    with pytest.raises(ValueError, match="network must simulate integers"):
        export_int8(images(), (1, 16, 16), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="no layer whose weights can be shared"):
        sharing.share_weights(rows().double(), 8)


# ---- surroundings ------------------------------------------------------------------------------------
def command(*arguments, **variables):
    here = {k: v for k, v in os.environ.items() if not k.startswith("COMPRESSLAB_")}
    return subprocess.run(
        [sys.executable, "-m", "compresslab.cli", *arguments],
        env=here | variables,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_a_language_that_there_is_not_is_one_line():
    done = command("progress", COMPRESSLAB_LANG="xx")
    assert done.returncode == 2
    assert done.stderr.strip() == "COMPRESSLAB_LANG must be one of en, zh, got 'xx'"


def test_progress_in_a_folder_is_said_to_be_none(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_PROGRESS", str(tmp_path))
    with pytest.warns(UserWarning, match="is a folder, no file: progress is not kept"):
        progress.record("measuring.parameter_bytes", "passed", None, 1)


def test_marks_are_not_written_to_a_folder_after_all_has_been_graded(tmp_path):
    class Never:
        def submit(self, *arguments):
            raise AssertionError("graded before it was refused")

    with pytest.raises(ValueError, match="is a folder: give --out the name of a file"):
        grade_folder(tmp_path, "00", tmp_path, Never())


@pytest.mark.parametrize("value", ["100000000000", "0", "-1", "two", "٣"])
def test_threads_are_a_number_that_makes_sense(value, monkeypatch):
    monkeypatch.setenv("COMPRESSLAB_THREADS", value)
    with pytest.raises(ValueError, match="COMPRESSLAB_THREADS must be a whole number from 1"):
        begin()
