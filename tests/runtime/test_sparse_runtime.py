"""Sparse layers compute what the dense ones do; sparse files hold the same network in fewer bytes."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compresslab import models
from compresslab.measure import count_layers, disk_bytes, measure
from compresslab.runtime import files, sparse
from compresslab.techniques import prune, scores
from compresslab.writing import FileError


def pruned(sparsity=0.8, granularity="weight"):
    torch.manual_seed(0)
    model = models.MLP((1, 8, 8), 16, (48, 32)).eval()
    mask = prune.select(scores.magnitude(model), sparsity, granularity, block=(8, 16))
    return mask.apply(model)


@pytest.mark.parametrize("form,granularity", [("csr", "weight"), ("blocks", "block")])
@pytest.mark.parametrize("batch", [1, 5, 40])
def test_sparse_layers_compute_what_the_dense_ones_do(form, granularity, batch):
    model = pruned(granularity=granularity)
    twin = sparse.with_sparse_layers(model, form)
    assert sum(isinstance(m, sparse.SparseLinear) for m in twin.modules()) == 3
    x = torch.rand(batch, 1, 8, 8)
    assert torch.allclose(twin(x), model(x), atol=1e-5)
    kept = sum(int(m.weight.count_nonzero()) for m in scores.prunable(model).values())
    counted = sum(c.macs for c in count_layers(twin, (1, 8, 8)))
    assert counted == kept if form == "csr" else counted >= kept


def test_two_of_four_layers_do_too():
    model = pruned(0.0)
    prune.select_n_of_m(scores.magnitude(model)).apply(model)
    twin, x = sparse.with_sparse_layers(model, "2:4"), torch.rand(7, 1, 8, 8)
    assert torch.allclose(twin(x), model(x), atol=1e-5)


def test_layers_without_the_pattern_stay_dense():
    twin = sparse.with_sparse_layers(pruned(0.0), "2:4")
    assert not any(isinstance(m, sparse.SparseLinear) for m in twin.modules())
    with pytest.raises(ValueError, match="form must be csr, 2:4, blocks, got 'coo'"):
        sparse.with_sparse_layers(pruned(), "coo")


def test_a_sparse_file_is_the_same_network_in_fewer_bytes(tmp_path):
    model, path = pruned(), tmp_path / "pruned.safetensors"
    size = sparse.save(model, path)
    weights = sum(m.weight.numel() for m in scores.prunable(model).values())
    assert size == path.stat().st_size
    assert size < weights * (1 / 8 + 4 * 0.2) + 3000
    assert size < 0.35 * disk_bytes(models.MLP((1, 8, 8), 16, (48, 32)))
    assert size == disk_bytes(model)
    again = sparse.load(path, models.MLP((1, 8, 8), 16, (48, 32)))
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


def test_a_dense_network_is_stored_as_it_is(tmp_path):
    model, path = nn.Linear(8, 4), tmp_path / "dense.safetensors"
    assert sparse.save(model, path) < disk_bytes(model) + 200
    assert torch.equal(sparse.load(path, nn.Linear(8, 4)).weight, model.weight)


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "pruned.safetensors"
    sparse.save(pruned(), path)
    other = models.MLP((1, 8, 8), 16, (48, 30))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(FileError, match="must have shape"):
        sparse.load(path, other)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FileError, match="does not hold this model"):
        sparse.load(path, models.MLP((1, 8, 8), 16, (48, 32)))
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(FileError, match="expected format"):
        sparse.load(path, nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError):
        sparse.load(tmp_path / "none", nn.Linear(1, 1))


@pytest.mark.parametrize("form", ["csr", "2:4", "blocks"])
def test_a_network_with_sparse_layers_is_saved_measured_and_read_as_the_one_it_was(form, tmp_path):
    dense = models.MLP((1, 8, 8), 16, (48, 32)).eval().requires_grad_(False)
    for layer in (m for m in dense.modules() if isinstance(m, nn.Linear)):
        layer.weight[:, 2::4] = layer.weight[:, 3::4] = 0
    twin = sparse.with_sparse_layers(dense, form)
    assert any(isinstance(m, sparse.SparseLinear) for m in twin.modules())
    before = [type(m) for m in twin.modules()]
    size = files.save(twin, tmp_path / "twin.safetensors")
    assert [type(m) for m in twin.modules()] == before
    assert size == files.save(dense, tmp_path / "dense.safetensors")
    back = files.load(tmp_path / "twin.safetensors", models.MLP((1, 8, 8), 16, (48, 32)))
    for name, value in dense.state_dict().items():
        assert torch.equal(back.state_dict()[name], value)
    measured = measure(twin, (1, 8, 8), batches=(1,))
    assert measured.bytes_disk == size
    assert measured.parameters == sum(p.numel() for p in dense.parameters())
    single = next(m for m in twin.modules() if isinstance(m, sparse.SparseLinear))
    assert files.save(single, tmp_path / "single.safetensors") > 0
