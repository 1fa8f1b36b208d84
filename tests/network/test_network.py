"""Reading and editing networks: copies, places, taps that leave nothing behind, files in other shapes."""

import pytest
import torch
from torch import nn

from compresslab.network.edit import in_place_of_, replace_, replaced
from compresslab.network.graph import chain_behind, trace
from compresslab.network.normal import normal_form
from compresslab.network.taps import Tap, by_name, tapped
from compresslab.runtime import files
from compresslab.runtime.rebuild import in_shape
from compresslab.techniques.lowrank import CONVOLUTIONS, Factoring, factorize
from compresslab.writing import FileError


def chain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()


def test_a_replaced_copy_leaves_the_network_and_shares_nothing():
    network, new = chain(), nn.Linear(128, 4)
    copy = replaced(network, {"4": new})
    assert copy[4] is new
    assert network[4] is not new
    assert copy[0] is not network[0]
    assert replace_(network, {"4": new}) is network
    assert network[4] is new
    assert replace_(network, {"": new}) is new


def test_what_takes_a_place_has_its_sizes():
    pair = in_place_of_(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5)), nn.Linear(3, 5))
    assert (pair.in_features, pair.out_features) == (3, 5)
    conv = nn.Conv2d(2, 4, 3, 2, 1)
    assert in_place_of_(nn.Identity(), conv).stride == (2, 2)


@pytest.mark.parametrize("fails", [False, True])
def test_taps_are_gone_after_the_block(fails):
    network, seen = chain(), []
    layers = by_name(network, ["0", "4"])
    try:
        with tapped(
            layers,
            before=lambda name, layer, inputs: seen.append((name, inputs[0].shape)),
            after=lambda name, layer, inputs, out: seen.append((name, out.shape)),
        ):
            network(torch.rand(2, 3, 4, 4))
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [name for name, _ in seen] == ["0", "0", "4", "4"]
    assert seen[-1][1] == (2, 4)
    network(torch.rand(2, 3, 4, 4))
    assert len(seen) == 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    with pytest.raises(ValueError, match="layers must name layers of the model, got 9"):
        Tap(network, ["9"])


def test_norms_and_cuts_belong_to_the_layer_in_front():
    graph = trace(chain())
    modules = dict(graph.named_modules())
    conv = next(n for n in graph.graph.nodes if n.target == "0")
    found = chain_behind(conv, modules)
    assert [type(n) for n in found.norms] == [nn.BatchNorm2d]
    assert (found.low, found.high, found.cuts) == (0.0, 6.0, True)
    assert found.end.target == "2"


def test_layers_keep_their_names_in_normal_form():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            x = nn.functional.conv2d(x, self.first.weight, self.first.bias)
            return nn.functional.linear(x.mean((2, 3)), self.head.weight, self.head.bias)

    network = Functional().eval()
    form = normal_form(network, torch.rand(1, 3, 6, 6))
    assert set(form.state_dict()) == set(network.state_dict())
    assert isinstance(form.first, nn.Conv2d)


# ---- files in other shapes -------------------------------------------------------------------------
@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_a_factored_network_comes_back_into_its_architecture(how, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 40), nn.Linear(40, 6)),
    ).eval()
    rank = (3, 4) if how == "tucker" else 3
    thin = factorize(network, {"0": rank, "4": 2}, Factoring(how)).eval()
    files.save(thin, tmp_path / "n")
    again, x = files.load(tmp_path / "n", network), torch.rand(5, 8, 6, 6)
    assert torch.equal(again(x), thin(x))
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in network.parameters())


def test_only_what_was_cut_is_taken_for_the_same_network():
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    smaller = in_shape(network, {"0.weight": (3, 4), "1.weight": (2, 3)})
    assert (smaller[0].out_features, smaller[1].in_features) == (3, 3)
    assert (network[0].out_features, network[1].in_features) == (8, 8)
    larger = in_shape(network, {"0.weight": (9, 4)})
    assert larger[0].out_features == 8


def test_a_file_of_another_network_is_still_refused(tmp_path):
    files.save(nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2)), tmp_path / "n")
    like = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    before = like[0].weight.clone()
    with pytest.raises(FileError, match=r"0.bias must be \[8\]"):
        files.load(tmp_path / "n", like)
    assert torch.equal(like[0].weight, before)


# ---- steps -----------------------------------------------------------------------------------------
def test_a_step_of_a_few_lines_has_a_file_that_checks_itself(tmp_path):
    """The example of CONTRIBUTING."""
    import re
    from pathlib import Path

    from compresslab.runtime import storage
    from compresslab.runtime.program import Line, Program
    from compresslab.runtime.steps import step as steps

    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class IntClip.*?)```", text, re.DOTALL)
    names = {"Step": steps.Step, "Whole": steps.Whole, "ClassVar": object, "torch": torch}
    exec(code, names)
    try:
        clip = names["IntClip"](10, 200)
        assert clip.describe() == {"low": 10, "high": 200}
        storage.save(Program([Line("a", ("image",))], [clip]), tmp_path / "n")
        x = torch.randint(0, 256, (3, 4), dtype=torch.uint8)
        assert torch.equal(storage.load(tmp_path / "n")(x), x.clamp(10, 200))
        for wrong, words in (
            ({"low": 10}, "high is missing"),
            ({"low": 10, "high": 256}, "high must be 0 to 255, found 256"),
            ({"low": 10, "high": 20, "width": 3}, "unknown entries width"),
            ({"low": True, "high": 20}, "low must be 0 to 255, found True"),
        ):
            with pytest.raises(ValueError, match=words):
                names["IntClip"].read(wrong, {})
    finally:
        del steps.KINDS["clip"]


def test_every_kind_of_step_says_what_it_is_made_of():
    import inspect

    from compresslab.runtime.steps.step import KINDS

    for kind, step in KINDS.items():
        taken = inspect.signature(step.__init__).parameters
        named = set(step.fields) - {"bits"}
        anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        assert anything or named - {"layer"} <= set(taken) | _wrapped(step), kind
        assert step.__doc__
    with pytest.raises(ValueError, match="kind 'linear' is taken by IntLinear"):
        type("Other", (KINDS["linear"],), {"kind": "linear"})


def _wrapped(step):
    """Fields that the wrapped module of torch holds."""
    from compresslab.runtime.steps.floating import Of

    return {name for name, field in step.fields.items() if isinstance(field, Of)}


@pytest.mark.parametrize("zeros", [False, True])
def test_a_tensor_that_layers_share_lies_in_the_file_once(zeros, tmp_path):
    def tied():
        network = nn.Sequential(nn.Embedding(300, 16), nn.Linear(16, 300, bias=False))
        network[1].weight = network[0].weight
        return network.eval()

    network = tied()
    if zeros:
        with torch.no_grad():
            network[0].weight[::2] = 0
    size = files.save(network, tmp_path / "n")
    assert size < 300 * 16 * 4 * 1.1
    again = files.load(tmp_path / "n", tied())
    assert again[0].weight is again[1].weight
    assert torch.equal(again[1].weight, network[1].weight)
