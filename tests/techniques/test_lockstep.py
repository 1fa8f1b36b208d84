"""Layer by layer: each batch passes the model once, and sees the layers before it as they were changed."""

import threading

import pytest
import torch
from torch import nn

from compresslab.techniques.lockstep import layer_by_layer


class Counted(nn.Module):
    """A chain of linear layers that counts its runs."""

    def __init__(self, depth=4):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        for layer in self.layers:
            x = layer(x).relu()
        return x


def layers_of(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}


def test_each_batch_runs_once_however_deep_the_model():
    model, inputs = Counted(7), [torch.randn(2, 3) for _ in range(5)]
    seen = []
    layer_by_layer(model, inputs, layers_of(model), lambda name, x: seen.append((name, len(x))))
    assert seen == [(f"layers.{i}", 5) for i in range(7)]
    assert model.runs == 5 + 1  # one example tells the order


def test_inputs_are_those_that_the_changed_layers_give():
    model, inputs = Counted(), [torch.randn(2, 3), torch.randn(4, 3)]
    layers = layers_of(model)

    def double(name, found):
        with torch.no_grad():
            wanted = list(inputs)
            for before in list(layers)[: list(layers).index(name)]:
                wanted = [layers[before](x).relu() for x in wanted]
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            layers[name].weight *= 2

    layer_by_layer(model, inputs, layers, double)


def test_batches_may_take_different_ways():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 3) for _ in "abc")

        def forward(self, x):
            if len(x) < 3:
                x = self.a(x)
            return self.c(self.b(x))

    model, seen = Experts(), []
    inputs = [torch.randn(2, 3), torch.randn(5, 3), torch.randn(1, 3)]
    layer_by_layer(
        model, inputs, layers_of(model), lambda n, x: seen.append((n, [len(v) for v in x]))
    )
    assert seen == [("a", [2, 1]), ("b", [2, 5, 1]), ("c", [2, 5, 1])]


def test_a_layer_that_runs_twice_is_visited_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(self.linear(x))

    model, seen = Twice(), []
    layer_by_layer(model, [torch.randn(2, 3)] * 2, layers_of(model), lambda n, x: seen.append(n))
    assert seen == ["linear"]


class BrokenError(Exception):
    pass


@pytest.mark.parametrize("where", ["visit", "model"])
def test_after_an_error_no_thread_and_no_hook_is_left(where):
    model, inputs = Counted(), [torch.randn(2, 3), torch.randn(2, 3)]
    before = threading.active_count()

    def visit(name, found):
        if where == "visit" and name == "layers.2":
            raise BrokenError
        if where == "model" and name == "layers.2":
            model.layers[3].forward = lambda x: (_ for _ in ()).throw(BrokenError)

    with pytest.raises(BrokenError):
        layer_by_layer(model, inputs, layers_of(model), visit)
    assert threading.active_count() == before
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_gradients_are_off_in_the_batches_threads():
    model, flags = Counted(2), []
    layer_by_layer(
        model,
        [torch.randn(2, 3)],
        layers_of(model),
        lambda n, x: flags.append(x[0].requires_grad or torch.is_grad_enabled()),
    )
    assert flags == [False, False]
