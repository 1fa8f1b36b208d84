"""What looks like a known operation and means another axis: right, or refused before anything is done."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import compresslab as cl
from compresslab.debugging import decibels
from compresslab.network import normal
from compresslab.techniques.surgery import SurgeryError

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Joined(nn.Module):
    """Two convolutions, joined along an axis."""

    def __init__(self, axis):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.axis, self.head = axis, nn.Linear(512, 5)

    def forward(self, x):
        both = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], self.axis)
        return self.head(both.flatten(1))


class Shuffled(nn.Module):
    """All parts of a split at once, in another order."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.second(torch.cat(self.first(x).chunk(4, 1)[::-1], 1))


class Decoder(nn.Module):
    """Rows that are viewed as images with their channels last, and turned."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(10, 64), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, z):
        return self.leave(F.relu(self.enter(z)).view(-1, 4, 4, 4).permute(0, 3, 1, 2))


class Pooled(nn.Module):
    """The largest number of the whole image, whatever its size."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x):
        y = F.relu(self.conv(x))
        return self.head(F.max_pool2d(y, y.size()[2:]).flatten(1))


class Listed(nn.Module):
    """A weight in a list of parameters."""

    def __init__(self):
        super().__init__()
        self.held, self.last = nn.ParameterList([nn.Parameter(torch.randn(4, 3))]), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(F.relu(F.linear(x, self.held[0])))


def near(network, images, stage):
    """Decibels between the network and what a stage makes of it."""
    small = cl.compress(network, [stage], images)
    with torch.no_grad():
        return decibels(network(images), small(images))


@pytest.mark.parametrize("axis", [1, -3])
def test_channels_that_are_joined_are_integers(axis):
    assert near(Joined(axis).eval(), IMAGES, cl.Quantize(8)) > 25


@pytest.mark.parametrize("axis", [2, 3, -1])
@pytest.mark.parametrize("stage", [cl.Quantize(8), cl.CutChannels(0.25)])
def test_rows_and_columns_that_are_joined_are_no_channels(axis, stage):
    network = Joined(axis).eval()
    with pytest.raises(ValueError, match="cat"):
        cl.compress(network, [stage], IMAGES)
    assert not cl.inspect(network, IMAGES[:1]).can("integers")


def test_all_parts_of_a_split_at_once_are_refused_by_name():
    with pytest.raises(ValueError, match="chunk"):
        cl.compress(Shuffled().eval(), [cl.Quantize(8)], IMAGES)
    assert not cl.inspect(Shuffled().eval(), IMAGES[:1]).can("integers")


@pytest.mark.parametrize("height,width", [(8, 8), (6, 8)])
def test_a_linear_layer_on_images_reads_their_last_axis(height, width):
    images = torch.randn(32, 8, height, width)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    with pytest.raises(ValueError, match="rows of an image"):
        cl.compress(network, [cl.Quantize(8)], images)
    assert not cl.inspect(network, images[:1]).can("integers")


def test_a_linear_layer_in_front_of_a_convolution_is_not_cut():
    network = nn.Sequential(
        *(nn.Linear(8, 8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    ).eval()
    with pytest.raises(SurgeryError, match="does not run without its channels"):
        cl.compress(network, [cl.CutChannels(0.25)], torch.randn(16, 8, 8, 8))


@pytest.mark.parametrize("tokens", [5, 8])
@pytest.mark.parametrize("stage", [cl.Quantize(8), cl.CutChannels(0.25)])
def test_a_batch_norm_of_tokens_belongs_to_no_linear_layer(tokens, stage):
    torch.manual_seed(0)
    x = torch.randn(32, tokens, 8) + torch.arange(float(tokens))[:, None]
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(tokens), nn.ReLU(), nn.Linear(8, 4))
    for _ in range(30):
        network(x)
    with pytest.raises(ValueError, match=r"second axis|norm|running_mean"):
        cl.compress(network.eval(), [stage], x)


def test_rows_that_are_viewed_channels_last_are_refused():
    with pytest.raises(ValueError, match="front, where they are already"):
        cl.compress(Decoder().eval(), [cl.Quantize(8)], torch.randn(32, 10))


@pytest.mark.parametrize("stage", [cl.Quantize(8), cl.CutChannels(0.25)])
def test_a_size_that_the_forward_computes_with_is_said(stage, capsys):
    cl.compress(Pooled().eval(), [stage], IMAGES)
    assert "right for inputs of 8 x 8 alone" in capsys.readouterr().out


def test_a_network_of_any_size_is_not_said_to_have_one(capsys):
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    cl.compress(network.eval(), [cl.Quantize(8)], IMAGES)
    assert "alone" not in capsys.readouterr().out


def test_a_network_that_answers_one_number_is_compressed_and_looked_at():
    network = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0)).eval()
    x = torch.randn(32, 7)
    assert cl.inspect(network, x).can("dynamic int8")
    assert near(network, x, cl.Dynamic()) > 25
    assert cl.debug(network, network, x).answers > 100
    assert normal.flat_outputs(torch.ones(4)).shape == (4, 1)


def test_a_list_of_parameters_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="Ways out"):
        cl.compress(Listed().eval(), [cl.Quantize(8)], torch.randn(9, 3))
    assert not cl.inspect(Listed().eval(), torch.randn(9, 3)).can("integers")


def test_what_cannot_be_converted_is_refused_before_anything_is_trained(monkeypatch):
    trained = []
    monkeypatch.setattr(
        "compresslab.stages.stage.train_in_place", lambda *a, **k: trained.append(a)
    )
    data = cl.data.Examples(IMAGES, torch.arange(32) % 4)
    depends = nn.BatchNorm2d(8, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), depends, nn.Flatten(), nn.Linear(288, 4)).eval()
    with pytest.raises(ValueError, match="running statistics"):
        cl.compress(network, [cl.Prune(0.3), cl.Quantize(8)], data)
    assert not trained


@pytest.mark.parametrize("stage", [cl.LowRank(0.5), cl.Share(8), cl.Prune(0.5)])
def test_a_stage_that_finds_no_layer_says_so(stage):
    network = nn.Sequential(nn.GroupNorm(1, 3), nn.ReLU()).eval()
    with pytest.raises(ValueError, match="network has no layer that could be"):
        cl.compress(network, [stage], IMAGES)


@pytest.mark.parametrize("stage", [cl.LowRank(0.5), cl.Share(8)])
def test_torchs_encoder_is_refused_before_it_cannot_run(stage):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    network = nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)).eval()
    with pytest.raises(ValueError, match="TransformerEncoderLayer"):
        cl.compress(network, [stage], torch.randn(8, 5, 16))


@pytest.mark.parametrize("stage", [cl.LowRank(0.5), cl.CutChannels(0.25)])
def test_images_with_three_axes_do_not_meet_a_layout_of_two(stage):
    network = nn.Sequential(
        *(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()),
        *(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)),
    ).eval()
    small = cl.compress(network, [stage], torch.rand(8, 1, 5, 5, 5))
    assert small(torch.rand(2, 1, 5, 5, 5)).shape == (2, 4)


class Normalising(nn.Module):
    """Images are normalised inside, by numbers of the training set; blocks have a learned scale."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.2, 0.9]).reshape(1, 3, 1, 1))
        self.register_buffer("sd", torch.tensor([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1))
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.scale, self.head = nn.Parameter(torch.full((8, 1, 1), 0.5)), nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.first((x - self.mean) / self.sd))
        x = x + F.relu(self.second(x)) * self.scale
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("training", [False, True])
def test_a_constant_of_each_channel_knows_no_batch(training):
    network = Normalising().eval()
    form = normal.normal_form(network, IMAGES[:1]).train(training)
    torch.testing.assert_close(form(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-5)
    held = dict(form.named_parameters())
    constants = [p for name, p in held.items() if p.shape == (3,)]
    assert len(constants) >= 2
    assert not any(p.requires_grad for p in constants)
    assert any(
        p.shape == (8,) and p.requires_grad for name, p in held.items() if "bias" not in name
    )


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("stage", [cl.CutChannels(0.25), cl.Quantize(4)])
def test_a_network_that_normalises_inside_is_tuned_as_it_runs(stage, labels, capsys):
    torch.manual_seed(0)
    y = torch.arange(512) % 3
    x = 0.5 * torch.rand(512, 3, 8, 8) + 0.5 * torch.eye(3)[y][:, :, None, None]
    data = cl.data.Split("colours", *(cl.data.Examples(x, y),) * 3, tuple("abcd"), "")
    network = cl.fit(Normalising(), data, epochs=10, progress=False)
    before = cl.evaluate(network, data.val)
    assert before > 80
    small = cl.compress(network, [stage], data if labels else x, epochs=3, progress=False)
    assert cl.evaluate(small, data.val) > before - (10 if labels else 40)


class WithAuxiliary(nn.Module):
    """A head that only training runs."""

    def __init__(self):
        super().__init__()
        self.first, self.extra = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.second, self.head = nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        y = F.relu(self.first(x))
        z = self.head(F.relu(self.second(y)).mean((2, 3)))
        return (z, self.extra(y.mean((2, 3)))) if self.training else z


@pytest.mark.parametrize("stage", [cl.CutChannels(0.25), cl.Prune(0.5), cl.LowRank(0.5)])
def test_a_head_for_training_alone_is_in_the_file(stage, tmp_path):
    network, path = WithAuxiliary().eval(), tmp_path / "small.safetensors"
    small = cl.compress(network, [stage], IMAGES)
    cl.save(small, path)
    again = cl.load(path, like=network)
    torch.testing.assert_close(again(IMAGES), small(IMAGES))


@pytest.mark.parametrize(
    "network,example",
    [
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)), torch.randn(9, 3, 12)),
        (nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2)), torch.randint(9, (5, 3))),
    ],
)
def test_looking_and_cutting_agree_that_there_are_no_channels(network, example):
    assert not cl.inspect(network.eval(), example).can("cut channels")
    with pytest.raises(ValueError, match=r"channels|words"):
        cl.compress(network, [cl.CutChannels(0.25)], example)


def test_looking_and_pruning_agree_on_weights_that_are_computed():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2)).eval()
    assert not cl.inspect(network, torch.randn(3, 4)).can("prune")
    with pytest.raises(ValueError, match="computes its weight"):
        cl.compress(network, [cl.Prune(0.5)], torch.randn(3, 4))


# ---- more than its class says ------------------------------------------------------------------------
def convolutional():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    ).eval()


@pytest.mark.parametrize("where", range(5))
@pytest.mark.parametrize("kind", ["forward", "pre", "own"])
@pytest.mark.parametrize("stage", [cl.Quantize(8), cl.Share(8)])
def test_a_hook_is_never_lost(where, kind, stage):
    network = convolutional()
    if stage == cl.Share(8) and where not in (0, 4):
        pytest.skip("what stands between shared layers stays as it is")
    if kind == "forward":
        network[where].register_forward_hook(lambda m, a, out: out * 3)
    elif kind == "pre":
        network[where].register_forward_pre_hook(lambda m, a: (a[0] * 3,))
    else:
        before = network[where].forward
        network[where].forward = lambda x: before(x) * 3
    with pytest.raises(ValueError, match=r"hook|forward of its own"):
        cl.compress(network, [stage], IMAGES)


def test_a_scripted_network_is_refused_and_a_compiled_one_is_looked_into(tmp_path):
    network = convolutional()
    scripted = torch.jit.trace(network, IMAGES[:1])
    for call in (
        lambda: cl.inspect(scripted, IMAGES),
        lambda: cl.compress(scripted, [cl.Dynamic()], IMAGES),
    ):
        with pytest.raises(ValueError, match="give the module that it was made from"):
            call()
    wrapped = torch.compile(network)
    small = cl.compress(wrapped, [cl.Prune(0.5)], IMAGES)
    cl.save(small, tmp_path / "small.safetensors")
    again = cl.load(tmp_path / "small.safetensors", like=network)
    assert torch.equal(again(IMAGES), small(IMAGES))
    parallel = nn.DataParallel(network)
    assert near(parallel, IMAGES, cl.Dynamic()) > 25
