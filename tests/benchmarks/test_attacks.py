"""The figures on the instructor's page are those of the suite: nothing undeserved, nothing lost."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import attacks

RECORD = attacks.read_record()


def test_as_many_attacks_stand_on_the_page_as_there_are_today():
    code = (
        "import json; from benchmarks import attacks;"
        "print('ROWS', json.dumps(attacks.rows_of(attacks.counted('--collect-only'))))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=attacks.ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("ROWS"))
    found = {(r["mark"], r["about"]): r["tried"] for r in json.loads(line[5:])}
    kept = {(r["mark"], r["about"]): r["tried"] for r in RECORD["rows"]}
    assert found == kept, "run python -m benchmarks.attacks"


def test_no_attack_won_anything_and_no_honest_work_lost_anything():
    assert [row for row in RECORD["rows"] if row["failed"]] == []
    assert all(row["tried"] > row["skipped"] for row in RECORD["rows"])


def test_the_page_holds_the_table_of_the_record():
    page = attacks.PAGE.read_text(encoding="utf-8")
    assert attacks.with_section(page, RECORD) == page


def test_a_page_without_a_place_for_it_is_refused():
    with pytest.raises(ValueError, match="must hold"):
        attacks.with_section("# a page", RECORD)


def test_a_mark_of_no_known_kind_is_refused():
    counts = attacks.Counts()
    counts.collected["attack", "nothing"] += 1
    with pytest.raises(ValueError, match="nothing"):
        attacks.rows_of(counts)
