"""What a few examples tell about a network before and behind a stage, whoever wrote its forward.

    check_network             it takes the examples, in float32 on the CPU
    quick_layout              it runs channels last, in which torch computes convolutions faster
    with_recurrent_unrolled   it answers the same with its recurrent layers written out
    runs                      it answers at all
    refuse_if_read_by_name    it does not read a layer by name that became two
    say_if_far                its answers are near those of the network before

Left out: a proof. A forward that chooses its way by the values of its input is tried on these values only.
"""

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from compresslab.arguments import check_open
from compresslab.debugging import decibels
from compresslab.network.normal import flat_outputs
from compresslab.network.recurrent import unrolled
from compresslab.notice import tell
from compresslab.precision import not_float32
from compresslab.stages.stage import Stage
from compresslab.techniques.quantizer import Quantized
from compresslab.training import evaluating

PROOF = 100


NEAR = 10
"""Decibels below which a quantized network is said to be far from its float self."""


def quick_layout(network: nn.Module, examples: torch.Tensor) -> nn.Module:
    """The network channels last, in which torch computes convolutions faster, where its forward allows it.

    A forward that views an image as rows (`x.view(len(x), -1)`) needs channels first; it comes back as it is.
    """
    if examples.ndim != 4:
        return network
    layout = torch.channels_last
    try:
        turned = copy.deepcopy(network).to(memory_format=layout)
        with torch.no_grad(), evaluating(turned):
            turned(examples[:2].contiguous(memory_format=layout))
    except RuntimeError:
        return network
    return turned


def with_recurrent_unrolled(network: nn.Module, examples: torch.Tensor) -> nn.Module:
    """The network with its recurrent layers written out; itself where its forward does not take them so.

    A forward may ask for nn.LSTM by its class, or read its weights: then the answers to two examples differ.
    """
    written, few = unrolled(network), examples[:2]
    if written is network:
        return network
    try:
        with torch.no_grad(), evaluating(network), evaluating(written):
            wanted, found = _tensors(network(few)), _tensors(written(few))
        same = len(wanted) == len(found) and all(
            a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)
            for a, b in zip(wanted, found, strict=True)
        )
    except Exception:
        same = False
    if not same:
        tell(
            "recurrent layers stay as they are: the network's forward reads them by name or by class"
        )
    return written if same else network


def _tensors(answer: object) -> list[torch.Tensor]:
    """All tensors of an answer, however deep in tuples and dictionaries, as floats."""
    if isinstance(answer, torch.Tensor):
        return [answer.double()]
    if isinstance(answer, PackedSequence):
        return [answer.data.double()]
    parts = answer.values() if isinstance(answer, Mapping) else answer
    if not isinstance(answer, Mapping | tuple | list):
        return []
    return [tensor for part in parts for tensor in _tensors(part)]


def runs(network: nn.Module, examples: torch.Tensor) -> bool:
    """Whether it answers at all."""
    try:
        with torch.no_grad(), evaluating(network):
            network(examples[:2])
    except Exception:
        return False
    return True


def refuse_if_read_by_name(network: nn.Module, example: torch.Tensor) -> None:
    """A parent that reads a layer's weight instead of calling it does not run with two in its place."""
    try:
        with torch.no_grad(), evaluating(network):
            network(example)
    except AttributeError as error:
        raise ValueError(
            f"network reads a layer by name whose place another would take ({error}): name the other "
            "layers, by lowrank.factorize(network, ranks) or sharing.share_weights(network, {name: clusters})"
        ) from error


def say_if_one_size(
    stage: Stage, form: nn.Module, network: nn.Module, example: torch.Tensor
) -> None:
    """Say so where a network takes images of any size, and the graph of it those of one size alone.

    Args:
        stage: what was done.
        form: the graph, which computes what the network does with images like the example.
        network: as its author wrote it.
        example: images.
    """
    if example.ndim != 4:
        return
    larger = example[:1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad(), evaluating(network), evaluating(form):
        try:
            wanted = flat_outputs(network(larger))
        except Exception:  # it takes one size itself
            return
        try:
            found = flat_outputs(form(larger))
        except Exception:
            found = None
    same = found is not None and found.shape == wanted.shape
    if not (same and torch.allclose(found, wanted, 1e-3, 1e-3 * float(wanted.abs().max()))):
        height, width = example.shape[2:]
        tell(
            f"{stage!r}: what comes of it is right for inputs of {height} x {width} alone, because the "
            "network's forward computes with their size"
        )


def say_if_far(
    stage: Stage, after: nn.Module, before: nn.Module, images: torch.Tensor, name: str
) -> None:
    """Hold a network's answers against those before a stage, and say so where they are far from them.

    Args:
        stage: what was done.
        after: the network behind it.
        before: the network in front of it.
        images: of which the first few are taken.
        name: what `debug` should be called with to find the layer.
    """
    few = images[:PROOF]
    with torch.no_grad(), evaluating(before), evaluating(after):
        wanted, found = (flat_outputs(m(few)) for m in (before, after))
    # Against the differences between examples: what all answers have in common is no information.
    common = wanted.mean(0)
    near = decibels(wanted - common, found - common)
    if len(few) > 1 and near < NEAR:
        tell(
            f"{stage!r}: on the calibration inputs the answers are {near:.0f} dB from those of the network "
            f"before (less than {NEAR} dB are a third of their spread or more); debug(network, {name}, "
            "inputs) says which layer loses it"
        )


def check_trial(network: nn.Module, example: torch.Tensor) -> None:
    """Refuse a network that is not in float32 on the CPU, or does not take the example.

    Raises:
        ValueError: saying which, and what to do.
    """
    check_open(network)
    if any(isinstance(m, Quantized) for m in network.modules()):
        raise ValueError("network must be of floats, got one that simulates integers already")
    for name, parameter in network.named_parameters():
        if parameter.device.type != "cpu":
            raise ValueError(
                f"network must be on the CPU, {name} is on {parameter.device}: network.cpu()"
            )
    if complaint := not_float32(network):
        raise ValueError(complaint)
    try:
        with torch.no_grad(), evaluating(network):
            flat_outputs(network(example))
    except Exception as error:  # whatever the author's own forward raises
        raise ValueError(
            f"network does not take inputs of shape {list(example.shape[1:])}: {error}"
        ) from error
