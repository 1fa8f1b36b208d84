"""Training through the quantizers: quantization-aware training (QAT) and fine-tuning (QAF, 量化感知微调).

The network from `ptq.prepare` is trained as it is: forward through codes, backward straight through
(`ste`). From scratch that is QAT; from a trained network, QAF, which starts near the goal and needs a
fraction of the steps. Scales stay at what calibration chose, or are learned (`QuantConfig.learned`, LSQ).

Batch norms stay in the network: their factor is one number a channel, so conversion moves it into the
requantization without touching a code.

A float teacher may help (quantization-aware distillation): `toward_teacher` mixes its soft targets in.
"""

from collections.abc import Sequence

import torch
from torch import nn

from compresslab.data import Examples
from compresslab.network.edit import plain_copy
from compresslab.techniques.distill import Distillation, cached
from compresslab.techniques.prune import KeepZeros
from compresslab.techniques.ptq import quantize_post_training
from compresslab.techniques.quantizer import ActivationQuantizer, QuantConfig, Quantized
from compresslab.techniques.ste import quantize_gradient
from compresslab.training import Hook, Loss, fit


def tune(
    model: nn.Module,
    config: QuantConfig,
    data: Examples,
    epochs: float = 1,
    lr: float = 0.02,
    calibration: int = 500,
    hooks: Sequence[Hook] = (),
    **options: object,
) -> nn.Module:
    """Prepare a network, calibrate it, and train it through its quantizers (see `quantize_post_training`).

    Args:
        model: trained (QAF) or freshly initialised (QAT); not changed.
        config: bits and ranges; `learned=True` for LSQ.
        data: what to train on.
        epochs: as in `fit`.
        lr: as in `fit`; for QAF a tenth of the float rate is a good start.
        calibration: how many of the training images set the first activation ranges.
        hooks: as in `fit`. Weights that are 0 stay 0: what was pruned before stays pruned.
        options: further arguments of `fit`.
    """
    quantized = quantize_post_training(model, config, data.x[:calibration])
    held = [KeepZeros(), *hooks]
    fit(quantized, data, epochs, lr, hooks=held, optimizer=optimizer_of(quantized, lr), **options)
    return quantized


def optimizer_of(quantized: nn.Module, lr: float) -> torch.optim.SGD:
    """The optimizer of `tune`: as `fit`'s, but learned steps do not decay.

    Steps follow weights two orders of magnitude larger; decaying them would shrink the grid.
    """
    steps = [p for n, p in quantized.named_parameters() if n.endswith("scale")]
    others = [p for n, p in quantized.named_parameters() if not n.endswith("scale")]
    groups = [{"params": others, "weight_decay": 5e-4}, {"params": steps, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)


def toward_teacher(
    teacher: nn.Module, data: Examples, temperature: float = 4.0, weight: float = 0.7
) -> Loss:
    """A loss that mixes the labels with a teacher's soft targets, cached once for all images.

        (1 - a) * cross entropy + a * T^2 * KL(teacher at T || student at T)

    Args:
        teacher: a float network.
        data: the examples that will be trained on, in the same order.
        temperature: T.
        weight: a.
    """
    return Distillation(cached(teacher, data.x), 1 - weight, temperature)


def with_quantized_gradients(model: nn.Module, bits: int, stochastic: bool = True) -> nn.Module:
    """A copy whose layers receive gradients rounded to `bits` bits, as low-precision training does."""
    model = plain_copy(model)

    def round_on_the_way_back(
        _module: nn.Module, _inputs: tuple, output: torch.Tensor
    ) -> torch.Tensor:
        return quantize_gradient(output, bits, stochastic)

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | Quantized):
            module.register_forward_hook(round_on_the_way_back)
    return model


def quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The activation quantizers of a prepared network, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, ActivationQuantizer)}
