"""The published architectures have the sizes that their papers state."""

import pytest
import torch

from compresslab import published

pytest.importorskip("transformers", reason="the extra hf is not installed")


@pytest.mark.parametrize(
    # Millions: Sanh et al. 2019, table 3 (with heads: 110 and 66); Jiao et al. 2020, table 1.
    "name,millions,width",
    [
        ("BERT-base", 109, 768),
        ("DistilBERT", 66, 768),
        ("TinyBERT-6", 67, 768),
        ("TinyBERT-4", 14.5, 312),
    ],
)
def test_parameters_are_those_of_the_paper(name, millions, width):
    network = published.bert(name)
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.015)
    with torch.no_grad():
        states = network(torch.randint(5, 1000, (1, 7))).last_hidden_state
    assert states.shape == (1, 7, width)


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="name must be one of BERT-base"):
        published.bert("GPT-5")


def test_without_transformers_the_command_is_named(monkeypatch):
    monkeypatch.setattr(published, "available", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'compresslab\[hf\]'"):
        published.bert("DistilBERT")
