"""Whatever the front door is handed by mistake is answered by the argument's name; nothing else happens."""

import numpy as np
import pytest
import torch
from torch import nn

import compresslab as cl
from compresslab.arguments import kind
from compresslab.runtime.weight_only import convert_weights

WRONG = {
    "None": None,
    "a number": 5,
    "a word": "network",
    "a dictionary": {"a": 1},
    "a list": [1, 2],
    "an object": object(),
    "a class": nn.Linear,
    "a tensor": torch.zeros(3),
    "a generator": (n for n in (1, 2)),
}


def network():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def calls():
    x = torch.randn(5, 4)
    for name in sorted(cl.__all__):
        function = getattr(cl, name)
        if not callable(function):
            continue
        for wrong, value in WRONG.items():
            shapes = ((value,), (value, x), (network(), value), (network(), x, value))
            for place, arguments in enumerate(
                (*shapes, (network(), x[0], value), (network(), [value]))
            ):
                yield pytest.param(function, arguments, id=f"{name}-{wrong}-{place}")


@pytest.mark.parametrize("function,arguments", list(calls()))
def test_a_wrong_kind_is_answered_in_our_words(function, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a word is a path, and a file comes of it
    before = [p.clone() for a in arguments if isinstance(a, nn.Module) for p in a.parameters()]
    try:
        function(*arguments)
    except (ValueError, TypeError, FileNotFoundError) as error:
        # Python's own words for a wrong kind: "object of type", "expected str", "is not iterable" ...
        said = str(error)
        own = ("object of type", "object is not", "has no attribute", "expected str", "unsupported")
        assert not any(text in said for text in own), said
    after = [p for a in arguments if isinstance(a, nn.Module) for p in a.parameters()]
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


DATA = cl.data.Features(torch.randn(6, 4), torch.arange(6) % 2)


@pytest.mark.parametrize(
    "call,said",
    [
        (lambda: cl.evaluate(network(), DATA.x), r"data must be .* got Tensor: cl.data.labelled"),
        (lambda: cl.evaluate(nn.Linear, DATA), r"got the class Linear: make one first, Linear"),
        (lambda: cl.fit(network(), (DATA.x, DATA.y)), r"data must be .* got tuple: cl.data.lab"),
        (lambda: cl.fit(network().state_dict(), DATA), r"network must be .*load_state_dict"),
        (lambda: cl.convert("small.safetensors"), r"model must be .* cl.load\(path\)"),
        (lambda: cl.debug(network(), None, DATA.x), r"compressed must be a network.*got None"),
        (lambda: cl.debug(network(), network(), DATA), r"examples must be a tensor.*got Features"),
        (lambda: cl.inspect(None, DATA.x), r"network must be a network.*got None"),
        (lambda: cl.save(network(), 3), r"path must be a path or a string, got int 3"),
        (lambda: cl.load(network()), r"path must be a path or a string, got Sequential"),
        (lambda: cl.load("no.safetensors", like=3), r"like must be a network.*got int 3"),
        (lambda: cl.measure(network(), DATA.x[:, 0]), r"without the batch axis.*\[1, 6\]"),
        (lambda: cl.measure(network(), DATA.x[0], 3), r"name must be a string, got int 3"),
        (lambda: cl.measure({"net": 1}, DATA), r"model must be a network.*got dict"),
        (lambda: cl.table(network()), r"measurements must come from `measure`, got Sequential"),
        (
            lambda: cl.compress(network(), torch.zeros(2), DATA),
            r"stages must be a list.*got Tensor",
        ),
        (lambda: cl.compress(network(), "Prune", DATA), r"stages must be a list.*got str 'Prune'"),
        (lambda: cl.Quantize(torch.ones(2)), r"bits"),
        (lambda: convert_weights(network()), r"codes must come from .* got Sequential"),
        (
            lambda: cl.data.Features(np.zeros((2, 3)), DATA.y),
            r"x must be a tensor.*from_numpy\(x\)",
        ),
        (lambda: cl.data.labelled([[1.0]], [0]), r"x must be a tensor, got list"),
        (lambda: cl.data.labelled(DATA.x, DATA.y.numpy()), r"y must be a tensor.*from_numpy\(y\)"),
    ],
)
def test_the_message_names_the_argument_and_the_way_out(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_a_data_set_is_told_from_its_parts():
    data = cl.data.Split("two", DATA, DATA, DATA, ("a", "b"), "")
    with pytest.raises(ValueError, match=r"a data set has them as \.train, \.val and"):
        cl.evaluate(network(), data)
    assert isinstance(cl.fit(network(), data, epochs=1, progress=False), nn.Module)


def test_a_tilde_is_the_readers_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    cl.save(network(), "~/it.safetensors")
    assert (tmp_path / "it.safetensors").is_file()
    cl.load("~/it.safetensors", like=network())


@pytest.mark.parametrize(
    "value,said",
    [
        (None, "None"),
        (nn.ReLU, "the class ReLU"),
        (True, "bool True"),
        ("a" * 99, "str '" + "a" * 56 + "..."),
        ([1], "list"),
    ],
)
def test_kinds_are_named_briefly(value, said):
    assert kind(value) == said
