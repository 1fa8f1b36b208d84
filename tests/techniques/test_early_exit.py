"""Early exit: who leaves where, that leaving changes nothing else, and that it is done in batches."""

import math

import pytest
import torch

from compresslab import models
from compresslab.data.text import Sequences
from compresslab.measure import count_layers
from compresslab.techniques import early_exit as e
from compresslab.training import fit, seed_everything

WORDS, CLASSES, LENGTH = 20, 4, 6


def backbone(layers=3):
    seed_everything(0)
    return models.Encoder(WORDS, CLASSES, LENGTH, width=16, layers=layers, heads=2, place=2).eval()


def tokens(n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, WORDS, (n, LENGTH), generator=generator)


def test_uncertainty_is_entropy_over_its_maximum():
    assert float(e.uncertainty(torch.zeros(1, 5))) == pytest.approx(1)
    assert float(e.uncertainty(torch.tensor([[80.0, 0, 0]]))) == pytest.approx(0, abs=1e-6)
    p = torch.tensor([[0.5, 0.25, 0.25]])
    expected = (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3)
    assert float(e.uncertainty(p.log())) == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(e.uncertainty(torch.tensor([[1e4, -1e4]]))).all()
    assert float(e.uncertainty(torch.tensor([[1.0, -math.inf]]))) == 0


@pytest.mark.parametrize("speed", [0.0, 0.3, 0.9, 0.97, 2.0])
def test_everybody_gets_the_answer_of_the_exit_where_they_leave(speed):
    model = e.EarlyExit(backbone()).eval()
    for branch in model.exits:
        branch[-1].weight.data *= 8
    x = tokens()
    every = model(x).detach()
    answer = model.answer(x, speed)
    for i in range(len(x)):
        sure = [float(e.uncertainty(every[i, k][None])) < speed for k in range(2)]
        left = sure.index(True) if True in sure else 2
        assert int(answer.layers[i]) == left + 1
        assert torch.allclose(answer.logits[i], every[i, left], atol=1e-4)


def test_at_speed_zero_it_is_the_backbone():
    model = e.EarlyExit(backbone()).eval()
    answer = model.answer(tokens(), 0.0)
    assert torch.allclose(answer.logits, model.backbone(tokens()), atol=1e-5)
    assert (answer.layers == 3).all()


def test_later_layers_see_only_who_is_left():
    model = e.EarlyExit(backbone()).eval()
    sizes = []
    for layer in model.backbone.layers:
        layer.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    speed = float(e.uncertainty(model(tokens()).detach()[:, 0]).median())
    sizes.clear()
    answer = model.answer(tokens(), speed)
    counts = [int((answer.layers > k).sum()) for k in range(3)]
    assert sizes == counts[: len(sizes)]
    assert 20 <= sizes[1] <= 30
    sizes.clear()
    model.answer(tokens(), 2.0)
    assert sizes == [50]


def test_one_sequence_and_none():
    model = e.EarlyExit(backbone()).eval()
    assert model.answer(tokens(1), 0.5).logits.shape == (1, CLASSES)
    assert model.answer(tokens(0), 0.5).logits.shape == (0, CLASSES)
    with pytest.raises(ValueError, match="speed must be 0 or more"):
        model.answer(tokens(), math.nan)
    assert model.double().answer(tokens(3), 0.5).logits.dtype == torch.float64
    with pytest.raises(ValueError, match="2 layers or more"):
        e.EarlyExit(backbone(1))
    with pytest.raises(ValueError, match="2 classes or more"):
        e.uncertainty(torch.zeros(3, 1))


def test_exits_learn_the_last_ones_answer_without_labels_and_the_backbone_stays():
    model = e.EarlyExit(backbone())
    model.backbone.head.weight.data *= 20
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    data = Sequences(tokens(400), torch.full((400,), -1))
    last = model(data.x)[:, -1].argmax(1)

    def agreement():
        return [(model(data.x)[:, k].argmax(1) == last).float().mean() for k in range(2)]

    untrained = agreement()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    fit(model, data, 12, 0.01, 50, e.self_distillation, optimizer=optimizer, progress=False)
    assert all(a > b + 0.1 for a, b in zip(agreement(), untrained, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


# ---- the networks themselves -----------------------------------------------------------------------
def test_attention_is_torchs():
    seed_everything(0)
    ours = models.SelfAttention(16, 4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = (
        ours.out.weight.data,
        ours.out.bias.data,
    )
    x = torch.randn(3, 5, 16)
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    nothing[1, 3:] = True
    expected = theirs(x, x, x, key_padding_mask=nothing)[0]
    assert torch.allclose(ours(x, nothing), expected, atol=1e-5)


@pytest.mark.parametrize("place", [None, 2])
def test_padding_changes_nothing(place):
    seed_everything(0)
    model = models.Encoder(WORDS, CLASSES, 8, 16, 2, 2, place=place).eval()
    x = torch.zeros(2, 8, dtype=torch.int64)
    x[:, :5] = tokens(2)[:, :5]
    before = model(x)
    model.positions.data[5:] += 10
    assert torch.allclose(model(x), before, atol=1e-5)


def test_a_row_of_nothing_is_no_nan_and_other_lengths_are_refused():
    model = backbone()
    assert torch.isfinite(model(torch.zeros(2, LENGTH, dtype=torch.int64))).all()
    assert (model.words.weight[0] == 0).all()
    with pytest.raises(ValueError, match=rf"tokens must be \[n, {LENGTH}\], got \[3, 1\]"):
        model(tokens(3)[:, :1])
    with pytest.raises(ValueError, match="place must be one of 6 tokens"):
        models.Encoder(WORDS, CLASSES, LENGTH, place=9)


def test_macs_of_the_encoder_are_the_formula():
    model = models.Encoder(WORDS, CLASSES, LENGTH, width=16, layers=2, heads=2)
    counts = count_layers(model, tokens(1)[0])
    layer = LENGTH * (4 * 16**2 + 8 * 16**2) + 2 * LENGTH**2 * 16
    assert sum(c.macs for c in counts) == 2 * layer + 16 * CLASSES
    embedded = model.positions.numel()
    assert sum(c.parameters for c in counts) + embedded == sum(
        p.numel() for p in model.parameters()
    )


def test_macs_of_the_recurrent_network_are_the_formula():
    model = models.BiLSTM(WORDS, CLASSES, 8, 12)
    counts = count_layers(model, tokens(1)[0])
    assert sum(c.macs for c in counts) == LENGTH * 2 * 4 * 12 * (8 + 12) + 24 * CLASSES


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width must be a multiple of 3 heads"):
        models.SelfAttention(16, 3)


def test_the_backbone_goes_on_evaluating_while_the_exits_train():
    model = e.EarlyExit(backbone()).train()
    assert not any(m.training for m in model.backbone.modules())
    assert all(m.training for m in model.exits.modules())
    assert not any(m.training for m in model.eval().modules())
