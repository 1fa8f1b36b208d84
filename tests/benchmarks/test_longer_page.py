"""The page of the longer experiments."""

from benchmarks import longer as pages
from compresslab import longer


def test_the_committed_page_is_that_of_the_stored_runs():
    assert pages.PAGE.read_text(encoding="utf-8") == pages.page(), (
        "run `python -m benchmarks.longer`"
    )


def test_every_experiment_is_shown_by_one_lab():
    assert set(pages.labs()) == set(longer.names())


def test_every_row_of_a_table_has_as_many_cells_as_its_heading():
    for block in pages.page().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, block
