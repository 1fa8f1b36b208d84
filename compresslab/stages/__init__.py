"""Techniques one after another: a list of stages in, a network that runs out.

    small = compress(network, [Prune(0.85), Quantize(4)], data)

    stage              leaves                                     in the course
    Prune              single weights at 0                        lab 04
    CutChannels        fewer channels                             lab 04
    LowRank            layers as two thin ones                    lab 06
    Distill            another network, taught by the one given   labs 08, 09
    Share              few values per layer                       lab 12
    Quantize           integers of 2 to 8 bits                    labs 02, 03
    Binary             signs                                      lab 10
    Weights            packed weights of 2 to 8 bits              lab 11
    Dynamic            int8 linear layers, activations as they come
    OnnxRuntime        the same integers in another engine

The settings are those that the labs found good for small image networks. Left out: searching them.
"""

from compresslab.runtime.integers import ConversionError
from compresslab.stages.bits import Dynamic, OnnxRuntime, Quantize, Weights
from compresslab.stages.pipeline import Report, compress, fit, material_of, own_answers, report, run
from compresslab.stages.smaller import CutChannels, LowRank, Prune, Share
from compresslab.stages.stage import Material, Once, Stage
from compresslab.stages.students import Binary, Distill
from compresslab.stages.trial import check_trial

__all__ = [
    "Binary",
    "ConversionError",
    "CutChannels",
    "Distill",
    "Dynamic",
    "LowRank",
    "Material",
    "Once",
    "OnnxRuntime",
    "Prune",
    "Quantize",
    "Report",
    "Share",
    "Stage",
    "Weights",
    "check_trial",
    "compress",
    "fit",
    "material_of",
    "own_answers",
    "report",
    "run",
]
