"""Counts against torch's own counter and against paper, clocks against a clock we hold."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compresslab import measure, models, shorter
from compresslab.data import load
from compresslab.kernels import bitpack
from compresslab.measure.joules import joules

NETWORKS = [models.MLP, models.VGGLike, models.ResNet8, models.DepthwiseNet]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 28, 28)])
def test_macs_are_half_of_torchs_flops(network, shape):
    model = network(shape, 10).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    assert 2 * sum(c.macs for c in measure.count_layers(model, shape)) == counter.get_total_flops()


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_hold_all_parameters(network):
    model = network((1, 16, 16), 26)
    counted = sum(c.parameters for c in measure.count_layers(model, (1, 16, 16)))
    assert counted == sum(p.numel() for p in model.parameters())
    assert model.training, "counting puts training mode back"


def test_vgg16_is_counted_without_being_allocated():
    with torch.device("meta"):
        model = models.VGG16()
    layers = measure.count_layers(model, (3, 224, 224))
    assert sum(c.parameters for c in layers) == 138_357_544
    assert sum(c.macs for c in layers) == 15_470_264_320


def test_a_layer_used_twice_does_its_work_twice_and_is_stored_once():
    layer = nn.Linear(5, 5)
    layers = measure.count_layers(nn.Sequential(layer, layer), (5,))
    assert [c.macs for c in layers] == [25, 25]
    assert [c.parameters for c in layers] == [30, 0]


def test_positions_of_a_linear_layer_count():
    (layer,) = measure.count_layers(nn.Linear(4, 3), (7, 4))
    assert layer.macs == 7 * 12


def test_bytes_on_disk_are_those_of_a_file_and_its_header():
    model = nn.Linear(100, 100)
    assert measure.memory_bytes(model) == 4 * 10_100
    assert 4 * 10_100 < measure.disk_bytes(model) < 4 * 10_100 + 400


def test_nonzeros_are_counted():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.fill_(0)
        model.bias.fill_(1)
    assert measure.nonzero_parameters(model) == 3


@pytest.mark.parametrize("parameters,bits,expected", [(3, 3, 2), (8, 1, 1), (0, 4, 0), (5, 32, 20)])
def test_packed_parameters_fill_whole_bytes(parameters, bits, expected):
    assert bitpack.packed_size(parameters, bits) == expected


def test_a_median_ignores_slow_starts_and_disturbances():
    durations = iter([50.0, 9.0, 1.0, 2.0, 3.0, 99.0, 2.5])
    now = [0.0]

    def call():
        now[0] += next(durations)

    assert measure.fair_time(call, lambda: now[0], warmup=2, repeats=5) == 2.5


def test_latency_is_measured_in_evaluation_mode_with_the_batch_asked_for():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((tuple(x.shape), self.training, torch.is_inference_mode_enabled()))
            return x

    spy = Spy().train()
    timing = measure.latency(spy, (2, 3), batch=5, repeats=4)
    assert set(seen) == {((5, 2, 3), False, True)}
    assert spy.training
    assert 0 < timing.lower <= timing.median <= timing.upper
    assert (timing.repeats, timing.threads) == (4, torch.get_num_threads())


@pytest.mark.parametrize(
    "takes,calls,repeats", [(0.01, 24, 21), (0.125, 16, 13), (0.6, 8, 5), (5, 6, 5)]
)
def test_a_slow_call_is_measured_five_times_and_no_more(monkeypatch, takes, calls, repeats):
    now, made = [0.0], []

    def call():
        made.append(0)
        now[0] += takes

    monkeypatch.setattr(measure.clocks.time, "perf_counter", lambda: now[0])
    timing = measure.time_call(call)
    monkeypatch.undo()
    assert (len(made), timing.repeats) == (calls, repeats)
    assert timing.median == pytest.approx(takes)


def test_in_a_short_look_a_call_is_timed_twice(monkeypatch):
    monkeypatch.setenv(shorter.STEPS, "20")
    assert measure.time_call(lambda: None).repeats == 2


@pytest.mark.parametrize(
    "weight,activation,expected",
    [(32, 32, 4.6), (16, 16, 1.5), (8, 8, 0.3), (4, 8, 0.2), (8, 32, 4.6)],
)
def test_energy_of_a_mac_is_horowitzs(weight, activation, expected):
    assert measure.mac_picojoules(weight, activation) == pytest.approx(expected)


def test_energy_adds_arithmetic_and_memory():
    layer = measure.LayerCount("", "Linear", 0, 1_000_000)
    assert measure.energy_microjoules([layer], 10_000) == pytest.approx(4.6 + 1.6)


@pytest.mark.parametrize(
    "arguments,expected",
    [((100, 10, 10, 10), (10, "compute")), ((10, 100, 10, 10), (10, "memory"))],
)
def test_the_roofline_is_the_longer_of_the_two(arguments, expected):
    assert measure.roofline(*arguments) == expected


def test_machine_limits_are_positive_rates():
    limits = measure.machine_limits(size=64, megabytes=1)
    assert limits.macs_per_second > 1e6
    assert limits.bytes_per_second > 1e6


def test_a_measurement_has_mean_and_sd_over_seeds():
    data = load("digits")
    networks = [models.MLP(data.shape, 10, (8,)) for _ in range(3)]
    row = measure.measure(networks, data, "three", batches=(1,))
    assert len(row.accuracies) == 3
    assert row.accuracy == pytest.approx(sum(row.accuracies) / 3)
    assert row.accuracy_sd == pytest.approx(torch.tensor(row.accuracies).std().item(), rel=1e-5)
    assert list(row.latency) == [1]
    alone = measure.measure(networks[0], data.shape, batches=())
    assert math.isnan(alone.accuracy)
    assert alone.bops == alone.macs * 32 * 32
    with pytest.raises(ValueError, match="at least one"):
        measure.measure([], data.shape)


def test_a_race_of_networks_is_on_one_thread_and_leaves_everything_as_it_was():
    from compresslab.measure import race_networks

    class Slow(torch.nn.Module):
        def forward(self, x):
            assert torch.get_num_threads() == 1
            assert not self.training
            for _ in range(200):
                x = x * 1.0
            return x

    threads = torch.get_num_threads()
    frozen = torch.nn.BatchNorm1d(4).eval()
    networks = {"slow": Slow().train(), "quick": torch.nn.Sequential(frozen).train(False)}
    networks["quick"].training = True
    seconds = race_networks(networks, torch.rand(3, 4), rounds=5)
    assert set(seconds) == {"slow", "quick"}
    assert all(value > 0 for value in seconds.values())
    assert torch.get_num_threads() == threads
    assert networks["slow"].training
    assert networks["quick"].training
    assert not frozen.training


# ---- joules that are counted ---------------------------------------------------------------------
def socket(folder, name, count, largest=1_000_000):
    place = folder / name
    place.mkdir()
    (place / "energy_uj").write_text(f"{count}\n")
    (place / "max_energy_range_uj").write_text(f"{largest}\n")
    return place / "energy_uj"


def test_joules_are_those_of_the_counters(tmp_path):
    one = socket(tmp_path, "intel-rapl:0", 100)
    other = socket(tmp_path, "intel-rapl:1", 999_990)
    part = socket(tmp_path, "intel-rapl:0:0", 5)
    whole = socket(tmp_path, "intel-rapl:2", 7)  # a laptop's platform, the socket included
    (whole.parent / "name").write_text("psys\n")

    def call():
        one.write_text(str(int(one.read_text()) + 30))
        other.write_text(str((int(other.read_text()) + 20) % 1_000_000))  # it wraps round
        part.write_text(str(int(part.read_text()) + 7))  # counted in its socket already
        whole.write_text(str(int(whole.read_text()) + 90))

    assert joules(call, 0.01, tmp_path) == pytest.approx(50e-6)
    assert joules(call, 1e-9, tmp_path) == pytest.approx(50e-6)


@pytest.mark.parametrize("text", ["", "nothing"])
def test_no_joules_where_no_counter_can_be_read(tmp_path, text):
    socket(tmp_path, "intel-rapl:0", 0).write_text(text)
    assert joules(lambda: None, 0.01, tmp_path) is None
    assert joules(lambda: None, 0.01, tmp_path / "none") is None


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_joules_of_no_time_are_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be above 0"):
        joules(lambda: None, seconds)


# ---- several networks at once --------------------------------------------------------------------
def several(kind=lambda: models.MLP((1, 8, 8), 10, (12,))):
    networks = []
    for seed in range(3):
        torch.manual_seed(seed)
        networks.append(kind())
    return networks


def test_several_networks_have_the_accuracies_of_each_alone():
    data, networks = load("digits"), several()
    alone = [measure(network, data).accuracies[0] for network in networks]
    assert list(measure(networks, data).accuracies) == alone
    assert list(measure([networks[0]] * 3, data).accuracies) == [alone[0]] * 3


def test_networks_that_share_a_body_leave_its_mode_and_its_statistics():
    body = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10)
    )
    networks = [torch.nn.Sequential(body, torch.nn.Identity()).train() for _ in range(4)]
    before = body[2].running_mean.clone()
    measure(networks, load("digits"), batches=(1,))
    assert all(module.training for network in networks for module in network.modules())
    assert torch.equal(body[2].running_mean, before)


def test_a_forward_pass_that_draws_gives_the_same_from_the_same_seed():
    class Drawing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) + torch.randn(len(x), 10)

    data, networks, found = load("digits"), several(Drawing), set()
    for _ in range(4):
        torch.manual_seed(5)
        found.add(measure(networks, data, batches=(1,)).accuracies)
    assert len(found) == 1
