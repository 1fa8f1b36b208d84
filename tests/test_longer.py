"""Longer experiments: each runs, its stored runs are of its code, and its findings hold in all of them."""

import json
import math
from types import ModuleType

import pytest
import torch

from compresslab import longer, training
from compresslab.data import Examples
from compresslab.longer import stored
from compresslab.longer.experiment import SMALL, Finding, check_rows, fingerprint
from compresslab.longer.show import SWITCH, table
from compresslab.runtime import litert

DEVIATIONS = 3


def on_a_few(function):
    """The same of the first hundred examples, where there are labels to go with them."""

    def of_a_few(model, data, *rest):
        return function(model, data.first(100) if hasattr(data, "first") else data, *rest)

    return of_a_few


@pytest.mark.slow
@pytest.mark.parametrize("name", longer.names())
def test_it_runs_and_says_the_same_rows_as_the_stored_ones(name, monkeypatch):
    if name == "litert_engine" and not litert.available():
        pytest.skip(f"LiteRT's packages are not installed: {litert.INSTALL}")
    torch.set_num_threads(1)
    module = stored.module_of(name)
    for tested in (
        "evaluate",
        "logits",
    ):  # what is tested on thousands of examples; on a hundred here
        if hasattr(module, tested):
            monkeypatch.setattr(module, tested, on_a_few(getattr(training, tested)))
    found = stored.run_once(name, 0, SMALL)
    known = stored.read(name)[0]
    assert list(found.rows) == list(known.rows)
    assert [list(row) for row in found.rows.values()] == [list(row) for row in known.rows.values()]


@pytest.mark.parametrize("name", longer.names())
def test_its_stored_runs_are_of_the_present_code(name):
    runs = stored.read(name)
    assert len(runs) >= stored.SEEDS, f"run `compresslab longer {name}`"
    assert {run.size for run in runs} == {longer.experiment_of(name).size}
    for run in runs:
        check_rows(run.rows)


@pytest.mark.parametrize("name", longer.names())
def test_its_findings_held_in_every_run_by_three_deviations(name):
    runs = stored.read(name)
    for finding in longer.experiment_of(name).findings:
        held, mean, sd = stored.replicated(finding, runs)
        assert held == len(runs), finding.sentence
        assert mean > DEVIATIONS * sd, (finding.sentence, mean, sd)


def test_findings_are_sentences_without_measured_numbers():
    said = [f for name in longer.names() for f in longer.experiment_of(name).findings]
    assert len({f.sentence for f in said}) == len(said)
    assert all("±" not in f.sentence and f.unit for f in said)


@pytest.mark.parametrize("name", longer.names())
def test_a_lab_shows_it_without_running_it(name, capsys):
    shown = str(longer.show_longer(name))
    assert "mean ± sd" in shown
    told = capsys.readouterr().out
    assert longer.experiment_of(name).question in told
    assert told.count("✔") == len(longer.experiment_of(name).findings)


def test_asked_to_it_runs_a_seed_here_as_well(monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    runs = stored.read("smoothness")
    monkeypatch.setattr("compresslab.longer.show.run_once", lambda name, seed: runs[0])
    assert str(longer.show_longer("smoothness")).count("here") == len(runs[0].rows["1 %"])


def test_a_run_whose_packages_are_missing_says_so_and_shows_what_is_stored(monkeypatch, capsys):
    def run_once(name, seed):
        raise ModuleNotFoundError("its packages are not installed: pip install them")

    monkeypatch.setenv(SWITCH, "1")
    monkeypatch.setattr("compresslab.longer.show.run_once", run_once)
    assert "here" not in str(longer.show_longer("smoothness")).splitlines()[0]
    assert "Not run here: its packages are not installed" in capsys.readouterr().out


def test_what_is_missing_is_run_and_kept(monkeypatch, tmp_path):
    calls = []

    def run_once(name, seed):
        calls.append(seed)
        return stored.Run(seed, 1, 0.0, "here", {"a": {"b": float(seed)}})

    monkeypatch.setattr(stored, "run_once", run_once)
    list(stored.run_missing("rounds", 2, tmp_path))
    list(stored.run_missing("rounds", 3, tmp_path))
    assert calls == [0, 1, 2]
    assert [run.rows["a"]["b"] for run in stored.read("rounds", tmp_path)] == [0, 1, 2]


def test_runs_of_other_code_do_not_count(tmp_path):
    path = stored.write("rounds", [], tmp_path)
    content = json.loads(path.read_text()) | {"code": "0" * 16}
    path.write_text(json.dumps(content))
    assert stored.read("rounds", tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", '{"runs": []}', "null"])
def test_a_broken_file_is_named(text, tmp_path):
    (tmp_path / "rounds.json").write_text(text)
    with pytest.raises(ValueError, match=r"rounds.json must hold runs of 'rounds'"):
        stored.read("rounds", tmp_path)


def test_an_unknown_experiment_is_answered():
    with pytest.raises(ValueError, match=r"name must be one of .*smoothness.*, got 'nothing'"):
        longer.show_longer("nothing")


@pytest.mark.parametrize(
    "rows,words",
    [
        ({}, "at least one row"),
        ({"a": {"x": 1.0}, "b": {"y": 1.0}}, "row 'b' must have the columns"),
        ({"a": {"x": math.nan}}, "row 'a', column 'x' must be finite"),
    ],
)
def test_rows_that_are_none_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        check_rows(rows)


def test_a_margin_is_over_the_runs():
    runs = [stored.Run(s, 1, 1.0, "m", {"a": {"x": float(s)}}) for s in range(4)]
    finding = Finding("x is above a half", lambda r: r["a"]["x"] - 0.5, "points")
    held, mean, sd = stored.replicated(finding, runs)
    assert (held, mean) == (3, 1.0)
    assert sd == pytest.approx(1.2909944)
    experiment = longer.experiment_of("rounds")
    assert "1.5 ± 1.3" in str(table(experiment, runs))


def test_words_do_not_change_a_fingerprint_and_code_does(tmp_path):
    def of(text):
        path = tmp_path / f"m{len(text)}.py"
        path.write_text(text)
        import importlib.util

        spec = importlib.util.spec_from_file_location(path.stem, path)
        module: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return fingerprint(module)

    plain = of('"""Old."""\nA = 1\ndef run(seed):\n    return A\nEXPERIMENT = 2\n')
    said = of(
        '"""Words."""\nA = 1\ndef run(seed):\n    """More words."""\n    return A\n'
        "def margin(rows):\n    return 0\nEXPERIMENT = margin\n"
    )
    assert plain == said
    assert plain != of("A = 12\ndef run(seed):\n    return A\n")
    assert plain != of("A = 1\ndef run(seed):\n    return -A\n")
    helped = "def more():\n    return {}\ndef run(seed):\n    return more()\n"
    assert of(helped.format(1)) != of(helped.format(-1))


# ---- what single experiments build on ------------------------------------------------------------
def test_pages_have_the_letter_in_its_box():
    from compresslab.longer.boxes import overlap, pages

    x, boxes = pages(torch.ones(6, 1, 16, 16), 0)
    for page, (left, top, width, height) in zip(
        x, (boxes * 32).round().int().tolist(), strict=True
    ):
        assert page[0, top : top + height, left : left + width].min() > 0.99
        outside = page[0].clone()
        outside[top : top + height, left : left + width] = 0
        assert outside.max() <= 0.15
    assert torch.allclose(overlap(boxes, boxes), torch.ones(6))
    one, other = torch.tensor([[0.0, 0.0, 0.5, 0.5]]), torch.tensor([[0.25, 0.0, 0.5, 0.5]])
    assert overlap(one, other).item() == pytest.approx(1 / 3)
    assert overlap(one, other + torch.tensor([[0.5, 0.5, 0, 0]])).item() == 0


def test_sorting_is_the_area_under_the_roc_curve():
    from compresslab.longer.uncertainty import sorted_share

    doubt = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert sorted_share(doubt, torch.tensor([1.0, 1, 0, 0])) == 1.0
    assert sorted_share(doubt, torch.tensor([0.0, 0, 1, 1])) == 0.0
    assert sorted_share(doubt, torch.tensor([1.0, 0, 1, 0])) == 0.75


def test_a_shared_width_is_the_network_of_that_width():
    from compresslab.data import load
    from compresslab.longer.once_for_all import SHARES, SharedWidths

    data = load("glyphs", train_size=40)
    network = SharedWidths(data).eval()
    for share in SHARES:
        network.share = share
        assert network(data.test.x[:2]).shape == (2, 26)


def test_a_shape_counts_as_its_network_does():
    from compresslab.data import load
    from compresslab.longer.shape_search import Shape

    data = load("glyphs", train_size=40)
    shape = Shape((8, 12, 16), (1, 2, 1))
    counted = sum(p.numel() for p in shape.network(data).parameters())
    assert shape.parameters(1, 26) == counted


def test_random_plans_keep_what_they_are_to_keep():
    import numpy as np

    from compresslab.longer.share_search import random_plan

    sizes = {"a": 100, "b": 5000, "c": 20_000}
    for seed in range(20):
        plan = random_plan(sizes, 0.15, np.random.default_rng(seed))
        kept = sum(plan[name] * sizes[name] for name in sizes) / sum(sizes.values())
        assert kept == pytest.approx(0.15, abs=1e-6)


def test_words_differ_and_voices_too():
    import numpy as np

    from compresslab.longer.spoken_words import BANDS, FRAMES, WORDS, say, spectrogram, spoken

    examples = spoken(20, 0, ((110, 180),))
    assert isinstance(examples, Examples)
    assert examples.x.shape == (20, 1, BANDS, FRAMES)
    assert float(examples.x.min()) >= 0
    assert float(examples.x.max()) <= 1
    generator = np.random.default_rng(0)
    pictures = [spectrogram(say(word, generator, (110, 180))) for word in WORDS]
    assert len({picture.tobytes() for picture in pictures}) == len(WORDS)
    # A sine lies in its own band: the bands are of equal width up to half of the rate.
    tone = np.sin(2 * np.pi * 1000 * np.arange(5000) / 8000).astype(np.float32)
    assert int(spectrogram(tone).mean(1).argmax()) == 7
