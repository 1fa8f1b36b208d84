"""Situations that users of other projects have reported: ours gives the right value, or refuses by name."""

import copy
import multiprocessing
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from compresslab import models
from compresslab.classroom import progress
from compresslab.data.files import cache_folder, find
from compresslab.data.split import Examples
from compresslab.kernels import panels
from compresslab.runtime import files
from compresslab.runtime import sparse as sparse_files
from compresslab.runtime.convert import convert
from compresslab.runtime.dynamic import convert_dynamic
from compresslab.techniques import binarize, lora, mixed, prune, scores, tickets
from compresslab.techniques.folding import equalize, fold_batch_norms
from compresslab.techniques.ptq import calibrate, correct_bias, prepare, quantize_post_training
from compresslab.techniques.quantizer import QuantConfig
from compresslab.techniques.surgery import shrink, silence
from compresslab.training import Hook, fit
from compresslab.writing import write_whole

X = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = Examples(X, torch.arange(64) % 5)


class Net(nn.Module):
    """Layers by name, and how they run."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x)


def simulated(network, **options):
    return quantize_post_training(network.eval(), QuantConfig(**options), X)


def linear():
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).eval()


# ---- integer networks ----------------------------------------------------------------------------
def test_a_network_with_two_heads_answers_with_both():
    network = Net(
        lambda n, x: (n.a(n.f(x)), n.b(n.f(x))),
        f=nn.Flatten(),
        a=nn.Linear(256, 5),
        b=nn.Linear(256, 7),
    )
    prepared = simulated(network)
    for wanted, found in zip(prepared(X), convert(prepared)(X), strict=True):
        assert torch.allclose(wanted, found, atol=0.02)


def test_a_result_from_the_middle_is_the_one_that_comes_back():
    def run(n, x):
        y = n.r(n.a(n.f(x)))
        n.b(y)
        return y

    layers = {"a": nn.Linear(256, 8), "r": nn.ReLU(), "b": nn.Linear(8, 5)}
    network = Net(run, f=nn.Flatten(), **layers)
    prepared = simulated(network)
    found = convert(prepared)(X)
    assert found.shape == (64, 8)
    assert torch.allclose(prepared(X), found, atol=0.02)


def test_a_weighted_addition_is_not_taken_for_a_plain_one():
    network = Net(
        lambda n, x: n.h(n.f(n.p(torch.add(n.c(x), n.d(x), alpha=-1)))),
        c=nn.Conv2d(1, 6, 3),
        d=nn.Conv2d(1, 6, 3),
        p=nn.AdaptiveAvgPool2d(1),
        f=nn.Flatten(),
        h=nn.Linear(6, 5),
    )
    prepared = simulated(network)
    assert torch.allclose(prepared(X), network(X), atol=0.02)
    assert torch.allclose(prepared(X), convert(prepared)(X), atol=0.02)


class Double(nn.Linear):
    """A class of somebody's own."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_linear_layer_with_a_forward_of_its_own_stays():
    network = nn.Sequential(Double(64, 64), nn.ReLU(), nn.Linear(64, 5))
    changed = convert_dynamic(network)
    assert type(changed[0]) is Double
    x = torch.randn(9, 64)
    assert torch.allclose(changed(x), network(x), atol=0.1)


def test_an_empty_batch_gives_an_empty_result():
    program = convert(simulated(models.MLP((1, 16, 16), 5)))
    assert program(X[:0]).shape == (0, 5)


def test_sizes_that_came_out_of_numpy_can_be_saved(tmp_path):
    one = np.int64(1)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=(one, one), padding=(one, one)), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    program = convert(simulated(network))
    files.save(program, tmp_path / "a")
    assert torch.equal(files.load(tmp_path / "a")(X), program(X))


def test_layers_of_tiny_weights_are_not_lost():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    wanted = network(X)
    with torch.no_grad():
        network[1].weight *= 1e-9
        network[1].bias *= 1e-9
        network[3].weight *= 1e9
    assert (simulated(network)(X) - wanted).abs().max() < 0.2 * wanted.std()


# ---- quantizing ----------------------------------------------------------------------------------
def test_biases_of_layers_on_tokens_are_corrected_by_the_mean_over_all_tokens():
    network, x = linear(), torch.rand(32, 10, 64)
    quantized = calibrate(prepare(network, QuantConfig(weight_bits=3)), x)

    def error():
        return float((quantized(x) - network(x)).mean((0, 1)).abs().mean())

    before = error()
    correct_bias(quantized, network, x)
    assert error() < before / 2


def test_a_layer_of_zeros_does_not_end_a_scan():
    network = linear()
    network[2].weight.data.zero_()
    scan = mixed.sensitivity(network, lambda n: 0.0, bits=(4,))
    assert [entry.layer for entry in scan] == ["0", "2"]
    assert scan[1].sqnr == float("inf")


# ---- pruning and training ------------------------------------------------------------------------
def test_a_hook_begins_every_training_anew():
    def trained(hook, seed):
        torch.manual_seed(seed)
        network = models.MLP((1, 16, 16), 5, (20,))
        fit(network, DATA, 4, batch_size=8, hooks=[hook], progress=False)
        return prune.Mask.of_zeros(network)

    shared = prune.PruneGradually(0.8, every=4)
    again = [trained(shared, seed) for seed in (0, 7)]
    fresh = [trained(prune.PruneGradually(0.8, every=4), seed) for seed in (0, 7)]
    assert tickets.mask_distance(*again) == tickets.mask_distance(*fresh)
    early = tickets.EarlyBird(0.5)
    for _ in range(2):
        fit(models.MLP((1, 16, 16), 5, (20,)), DATA, 3, hooks=[early], progress=False)
    assert len(early.masks) == 3


def test_an_interrupted_training_leaves_evaluation_mode():
    class Stop(Hook):
        def after_step(self, run):
            raise KeyboardInterrupt

    network = models.VGGLike((1, 16, 16), 5, (4, 8, 8))
    with pytest.raises(KeyboardInterrupt):
        fit(network, DATA, 5, hooks=[Stop()], progress=False)
    assert not any(module.training for module in network.modules())


def test_a_layer_in_two_places_is_replaced_in_both():
    shared = nn.Conv2d(8, 8, 3, padding=1)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), shared, nn.ReLU(), shared, nn.Flatten()),
        nn.Linear(2048, 5),
    )
    binary = binarize.binarize(network, binarize.XNOR)
    assert type(binary[1]) is not nn.Conv2d
    assert binary[1] is binary[3]
    twice = nn.Linear(16, 16)
    twice.weight.data[torch.rand(16, 16) < 0.8] = 0
    sparse = sparse_files.with_sparse_layers(nn.Sequential(twice, nn.ReLU(), twice))
    assert sparse[0] is sparse[2]
    assert isinstance(sparse[0], sparse_files.SparseLinear)


def frozen():
    return (
        nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.mark.parametrize(
    "change",
    [
        fold_batch_norms,
        lambda n: binarize.binarize(n, binarize.BINARY_WEIGHTS),
        lambda n: shrink(silence(n, {"0": torch.arange(8) < 4})),
    ],
    ids=["folded", "binarized", "cut"],
)
def test_what_is_frozen_stays_frozen(change):
    changed = change(frozen())
    assert not any(p.requires_grad for p in changed.parameters())


# ---- files ---------------------------------------------------------------------------------------
def test_the_strength_of_a_correction_is_saved_with_the_network(tmp_path):
    base = nn.Sequential(nn.Linear(16, 16))
    network = lora.add_lora(base, 4, alpha=32)
    nn.init.normal_(network[0].up.weight)
    files.save(network, tmp_path / "a")
    again = files.load(tmp_path / "a", lora.add_lora(base, 4))
    x = torch.randn(3, 16)
    assert torch.equal(again(x), network(x))
    assert again[0].alpha == 32


def test_a_correction_with_other_peoples_metadata_is_read_and_one_of_nan_refused(tmp_path):
    network, path = lora.add_lora(linear(), 2), tmp_path / "a"
    lora.save(network, path)
    tensors = load_file(path)
    save_file(tensors, path, {"format": "pt"})
    lora.load_(path, network)
    save_file({name: t * torch.nan for name, t in tensors.items()}, path)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="must be finite"):
        lora.load_(path, network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_a_pruned_file_of_a_newer_version_is_refused(tmp_path):
    network, path = linear(), tmp_path / "a"
    prune.select(scores.magnitude(network), 0.5).apply(network)
    files.save(network, path)
    about = safe_open(path, "pt").metadata()
    save_file(load_file(path), path, {**about, "version": "2"})
    with pytest.raises(files.FileError, match="version '2'"):
        files.load(path, linear())


def test_a_causal_mask_comes_back(tmp_path):
    network = linear()
    network.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    files.save(network, tmp_path / "a")
    again = files.load(tmp_path / "a", copy.deepcopy(network))
    assert torch.equal(again.mask, network.mask)
    tensors = load_file(tmp_path / "a")
    tensors["0.weight"][0, 0] = torch.inf
    save_file(tensors, tmp_path / "a")
    with pytest.raises(files.FileError, match=r"0\.weight holds NaN or an infinity"):
        files.load(tmp_path / "a", copy.deepcopy(network))


def test_a_link_stays_a_link_and_a_protected_file_stays_as_it_is(tmp_path):
    real, link = tmp_path / "folder" / "real", tmp_path / "link"
    real.parent.mkdir()
    write_whole(real, lambda path: path.write_text("old"))
    link.symlink_to(real)
    write_whole(link, lambda path: path.write_text("new"))
    assert link.is_symlink()
    assert real.read_text() == "new"
    real.chmod(0o444)
    for path in (real, link):
        with pytest.raises(PermissionError, match="write-protected"):
            write_whole(path, lambda place: place.write_text("newer"))
    assert real.read_text() == "new"
    assert [p.name for p in real.parent.iterdir()] == ["real"]


def test_a_tilde_in_a_variable_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for variable in ("PROGRESS", "CACHE", "DATA"):
        monkeypatch.setenv(f"COMPRESSLAB_{variable}", "~/there")
    assert progress.progress_file() == tmp_path / "there"
    assert cache_folder() == tmp_path / "there"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert find("x", ["file"]) == tmp_path / "there"


# ---- processes -----------------------------------------------------------------------------------
def _multiply(results):
    from compresslab.kernels import int8

    weight = panels.pack_weight(np.ones((512, 512), np.int8))
    epilogue = weight.requantize(0, None, np.full(512, 1e-4, np.float32), 0, 0, 255)
    out = int8.matmul_requantize(np.ones((64, 512), np.uint8), weight, epilogue, 2)
    results.append(int(out[0, 0]))
    return results


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kernels_on_two_threads_run_in_a_fork_as_well():
    _multiply([])
    child = multiprocessing.get_context("fork").Process(target=_multiply, args=([],), daemon=True)
    child.start()
    child.join(60)
    hangs = child.is_alive()
    child.kill()
    assert not hangs
    assert child.exitcode == 0


# ---- weights that are computed anew --------------------------------------------------------------
def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()


def with_weight_norm(network):
    for layer in (network[0], network[2], network[6]):
        nn.utils.parametrizations.weight_norm(layer)


def with_spectral_norm(network):
    for layer in (network[0], network[2]):
        nn.utils.parametrizations.spectral_norm(layer)


def with_old_weight_norm(network):
    for layer in (network[0], network[2]):
        torch.nn.utils.weight_norm(layer)
    network(X)  # its weights are now no leaves, which torch refuses to copy


def with_old_spectral_norm(network):
    torch.nn.utils.spectral_norm(network[2])


def masked_by_torch(network):
    prune.select(scores.magnitude(network), 0.5).to_torch(network)
    network(X)


USES = {
    "pruned": lambda n: prune.Mask.of_zeros(convolutional()).apply(n),
    "silenced": lambda n: silence(n, {"0": torch.arange(8) < 4}),
    "cut": shrink,
    "folded": fold_batch_norms,
    "evened out": equalize,
    "quantized": lambda n: quantize_post_training(n, QuantConfig(), X),
    "prepared": lambda n: prepare(n, QuantConfig()),
    "binarized": lambda n: binarize.binarize(n, binarize.XNOR),
    "corrected": lambda n: lora.add_lora(n, 2),
    "dynamic": convert_dynamic,
}
WAYS = {
    with_weight_norm: "remove_parametrizations",
    with_spectral_norm: "remove_parametrizations",
    with_old_weight_norm: "remove_weight_norm",
    with_old_spectral_norm: "remove_spectral_norm",
    masked_by_torch: "prune.remove",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("change,way", WAYS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_a_weight_that_is_computed_anew_is_refused_with_the_way_out(change, way, use):
    network = convolutional()
    change(network)
    before = {name: t.detach().clone() for name, t in network.state_dict().items()}
    with pytest.raises(ValueError, match=way):
        use(network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_once_it_is_plain_again_all_is_well():
    network = convolutional()
    with_weight_norm(network)
    for layer in (network[0], network[2], network[6]):
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    prune.select(scores.magnitude(network), 0.5).apply(network)
    assert prune.Mask.of_zeros(network).sparsity == pytest.approx(0.5, abs=0.01)


# ---- more of them --------------------------------------------------------------------------------
def test_a_calibrated_state_is_used_not_observed_again():
    network = convolutional()
    quantized = simulated(network, activation_bits=3)
    fresh = prepare(network, QuantConfig(activation_bits=3))
    fresh.load_state_dict(quantized.state_dict())
    assert torch.equal(fresh.eval()(X), quantized(X))


def test_layers_that_share_a_weight_have_one_mask():
    network = nn.Sequential(
        nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
    )
    network[2].weight = network[0].weight
    mask = prune.select(scores.random(network), 0.5)
    mask.apply(network)
    assert sorted(mask.keep) == ["0", "3"]
    assert float((network[0].weight == 0).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert mask.sparsity == pytest.approx(0.5, abs=0.01)


def test_activations_of_layers_on_tokens_are_scored_by_channel():
    network = Net(
        lambda n, x: n.b(n.r(n.a(x.flatten(1, 2)))).mean(1),
        a=nn.Linear(16, 8),
        r=nn.ReLU(),
        b=nn.Linear(8, 5),
    )
    found = scores.activation(network, DATA)
    with torch.no_grad():
        wanted = network.a(X.flatten(1, 2)).relu().abs().mean((0, 1))
    assert torch.allclose(found["a"][:, 0], wanted)
    assert found["b"].shape == (5, 8)


def test_another_default_dtype_does_no_harm():
    torch.set_default_dtype(torch.float64)
    try:
        network = convolutional().float()
        assert simulated(network)(X).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_bfloat16_weights_are_converted_and_bfloat16_activations_named():
    network = linear()
    changed = convert_dynamic(copy.deepcopy(network).bfloat16())
    x = torch.randn(9, 64)
    assert torch.allclose(changed(x), network(x), atol=0.1)
    with pytest.raises(ValueError, match=r"x must be float32, got torch\.bfloat16"):
        changed(x.bfloat16())


@pytest.mark.parametrize("always", [False, True])
def test_a_dropout_that_is_no_module_is_there_in_training_or_refused(always):
    network = Net(
        lambda n, x: n.b(F.dropout(F.relu(n.a(n.f(x))), 0.5, training=n.training or always)),
        f=nn.Flatten(),
        a=nn.Linear(256, 20),
        b=nn.Linear(20, 5),
    )
    if always:
        with pytest.raises(ValueError, match="'dropout' is a dropout that is active in evaluation"):
            prepare(network, QuantConfig())
        return
    prepared = simulated(network)
    assert torch.equal(prepared(X), prepared(X))
    prepared.train()
    assert not torch.equal(prepared(X), prepared(X))


@pytest.mark.parametrize("use", [convert_dynamic, lambda n: lora.add_lora(n, 2)])
def test_torchs_encoder_layer_is_refused_with_the_way_out(use):
    network = nn.Sequential(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)).eval()
    with pytest.raises(ValueError, match="set_fastpath_enabled"):
        use(network)
    x = torch.randn(2, 5, 16)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            assert torch.allclose(use(network).eval()(x), network(x), atol=0.1)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore")
def test_tracing_that_would_keep_an_answer_is_refused():
    network = linear()
    network[0].weight.data[torch.rand(48, 64) < 0.8] = 0
    for changed in (convert_dynamic(network), sparse_files.with_sparse_layers(network)):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
            torch.jit.trace(changed, torch.rand(6, 64), check_trace=False)
