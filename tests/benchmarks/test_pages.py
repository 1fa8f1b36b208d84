"""The pages of docs/ say what their records say, and the commands that make them work on a small scale."""

import json
from pathlib import Path

import nbformat
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import labs, page, results

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "results"


def records(count=2):
    rows = [
        {
            "technique": t.name,
            "lab": t.lab,
            "paper": t.paper,
            "bytes": 1000 * (i + 1),
            "nonzeros": 10,
            "macs": 2_000_000,
            "energy": 9.24,
            "times_faster": {"1": 1.5, "64": 0.5},
            "accuracies": [90.0 + i, 92.0 + i],
        }
        for i, t in enumerate(results.TECHNIQUES[:count])
    ]
    machine = {"processor": "x", "python": "3"}
    return {"data": "glyphs", "machine": machine, "seeds": 2, "train": 100, "rows": rows}


def test_the_committed_pages_are_those_of_the_committed_records():
    content = [page.read(RECORDS / f"{name}.json") for name in results.DATA]
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert text == page.results_page(content, page.read(RECORDS / "labs.json"))
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text == page.benchmarks_page(page.read(RECORDS / "kernels.json"))


@pytest.mark.parametrize("name", results.DATA)
def test_the_committed_records_hold_every_technique_with_its_seeds(name):
    record = page.read(RECORDS / f"{name}.json")
    assert [r["technique"] for r in record["rows"]] == [t.name for t in results.TECHNIQUES]
    assert all(len(r["accuracies"]) == record["seeds"] == 3 for r in record["rows"])


def test_the_committed_labs_ran_without_an_error_on_other_data():
    runs = page.read(RECORDS / "labs.json")
    done = {(run["lab"][:2], run["data"]) for run in runs}
    assert done == {(lab, data) for data, numbers in labs.LABS.items() for lab in numbers}
    assert not [run["lab"] for run in runs if run["errors"]]


def test_a_table_of_results_counts_points_against_float32():
    table = page.results_table(records())
    column = table.headings.index
    assert [row[column("points")] for row in table.rows] == ["", "+1.0"]
    assert [row[-1] for row in table.rows] == ["-1.0", "+0.0"]
    assert [row[column("times smaller")] for row in table.rows] == ["1.0", "0.5"]
    assert [row[column("energy, µJ")] for row in table.rows] == ["9.2", "9.2"]
    assert [row[column("epochs")] for row in table.rows] == ["6", "10"]
    assert table.rows[0][column("accuracy, %")] == "91.0 ± 1.4"


def test_joules_stand_beside_the_estimate_where_they_were_counted():
    record = records()
    assert "measured, µJ" not in page.results_table(record).headings
    for row, taken in zip(record["rows"], (120.04, 30.0), strict=True):
        row["measured"] = taken
    table = page.results_table(record)
    place = table.headings.index("measured, µJ")
    assert place == table.headings.index("energy, µJ") + 1
    assert [row[place] for row in table.rows] == ["120.0", "30.0"]


def test_an_image_takes_its_part_of_what_a_batch_takes(monkeypatch):
    monkeypatch.setattr(results, "joules", lambda call: (call(), 0.5)[1])
    network = torch.nn.Conv2d(1, 2, 3)
    assert results.measured_microjoules(network, torch.zeros(4, 1, 8, 8)) == 125_000
    monkeypatch.setattr(results, "joules", lambda call: None)
    assert results.measured_microjoules(network, torch.zeros(4, 1, 8, 8)) is None


def test_a_papers_figure_stands_beside_points_of_the_same_comparison():
    record = records(len(results.TECHNIQUES))
    places = {t.name: i for i, t in enumerate(results.TECHNIQUES)}
    for name, _paper, against, here in page.papers_table([record]).rows:
        assert here.startswith(f"{places[name] - places[against]:+.1f} points")


def test_a_table_as_markdown_has_a_line_a_row_and_bars_in_cells_escaped():
    table = page.Table(["a", "b"], [["1|2", "3"], ["4", "5"]], text_columns=1)
    assert page.markdown(table).splitlines() == [
        "| a | b |",
        "|---|---:|",
        "| 1\\|2 | 3 |",
        "| 4 | 5 |",
    ]


def test_races_that_are_lost_are_listed_from_the_worst_on():
    def race(peer, ratio):
        return {
            "kernel": "k",
            "shape": "s",
            "threads": 1,
            "isa": "i",
            "ours_ms": 1.0,
            "peer": peer,
            "peer_ms": ratio,
            "ratio": ratio,
            "fraction_of_limit": None,
        }

    content = {
        "machine": {"python": "3"},
        "records": [race("a", 0.9), race("b", 2), race("c", 0.5)],
    }
    text = page.benchmarks_page(content)
    assert "Where we lose (2 of 3 races)" in text
    assert text.index("against c: 0.50") < text.index("against a: 0.90")
    assert "against b" not in text


@pytest.fixture
def app():
    def made(module):
        app = typer.Typer()
        app.command()(module.main)
        return app

    return made


def test_one_row_is_made_by_one_command_and_kept_in_its_place(app, tmp_path):
    out = tmp_path / "docs" / "results"
    options = ["--seeds", "2", "--train", "300", "--out", str(out)]
    only = ["--only", "int8 after training"]
    result = CliRunner().invoke(app(results), options + only)
    assert result.exit_code == 0, result.output
    assert "int8 after training" in result.output
    assert not out.exists()
    record = records(len(results.TECHNIQUES)) | {"machine": results.machine(), "train": 300}
    out.mkdir(parents=True)
    (out / "glyphs.json").write_text(json.dumps(record), encoding="utf-8")
    result = CliRunner().invoke(app(results), options + only)
    assert result.exit_code == 0, result.output
    rows = page.read(out / "glyphs.json")["rows"]
    changed = [r["technique"] for r, old in zip(rows, record["rows"], strict=True) if r != old]
    assert changed == ["int8 after training"]
    assert (out.parent / "results.md").is_file()
    assert (out.parent / "images" / "pareto.png").is_file()


@pytest.mark.parametrize(
    "module, options, told",
    [
        (results, ["--data", "imagenet"], "--data must be one of"),
        (results, ["--only", "magic"], "--only must be one of"),
        (labs, ["--data", "glyphs"], "--data must be one of"),
        (labs, ["09"], "on mnist run"),
    ],
)
def test_what_cannot_be_run_is_refused(module, options, told, app):
    result = CliRunner().invoke(app(module), options)
    assert result.exit_code == 2
    assert told in result.output


def test_a_labs_run_counts_claims_and_keeps_sentences_and_errors():
    printed = nbformat.v4.new_output(
        "stream",
        name="stdout",
        text="✔ one\n✔ two\n✘ not on mnist, in this run: three\n✘ not on this machine, in this run: four\n",
    )
    error = nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[])
    cell = nbformat.v4.new_code_cell("...", outputs=[printed, error])
    run = labs.summary(nbformat.v4.new_notebook(cells=[cell]), "04_pruning", "mnist", 3.14)
    assert (run.held, run.not_held, run.errors) == (2, ["three"], ["KeyError: 'x'"])
