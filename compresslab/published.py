"""Architectures as published, at full size, from their configurations; nothing is fetched.

    name          layers   width   heads   feed-forward   source
    BERT-base         12     768      12           3072   Devlin et al. 2019, arXiv:1810.04805, section 3
    DistilBERT         6     768      12           3072   Sanh et al. 2019, arXiv:1910.01108, section 3
    TinyBERT-6         6     768      12           3072   Jiao et al. 2020, arXiv:1909.10351, section 4.1
    TinyBERT-4         4     312      12           1200   the same

Weights are random: parameters and milliseconds do not depend on them. Needs the extra `hf` (transformers).
"""

import importlib.util
from collections.abc import Callable

from torch import nn

BERTS = ("BERT-base", "DistilBERT", "TinyBERT-6", "TinyBERT-4")
INSTALL = "pip install 'compresslab[hf]'"


def available() -> bool:
    """Whether transformers is installed."""
    return importlib.util.find_spec("transformers") is not None


def bert(name: str) -> nn.Module:
    """One of BERTS with random weights, in evaluation mode; it maps tokens int64 [n, length] to states.

    Raises:
        ValueError: for another name.
        ModuleNotFoundError: without transformers, with the command that installs it.
    """
    if name not in BERTS:
        raise ValueError(f"name must be one of {', '.join(BERTS)}, got {name!r}")
    if not available():
        raise ModuleNotFoundError(f"transformers is missing: {INSTALL}")
    return _builders()[name]().eval()


def _builders() -> dict[str, Callable[[], nn.Module]]:
    # Imported late: it takes a second, and only those who ask for a network need it.
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    def bert_of(**sizes: int) -> Callable[[], nn.Module]:
        return lambda: BertModel(BertConfig(**sizes))

    tiny = {"hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200}
    return {
        "BERT-base": bert_of(),
        "DistilBERT": lambda: DistilBertModel(DistilBertConfig()),
        "TinyBERT-6": bert_of(num_hidden_layers=6),
        "TinyBERT-4": bert_of(num_hidden_layers=4, **tiny),
    }
