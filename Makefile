PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: lab test browser lint format release bench clean

lab: .venv/.course
	$(BIN)/compresslab lab

test: .venv/.authors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q -n 2 tests/kernels
	$(BIN)/python -m pytest -q -n 2 --dist loadscope tests \
		--ignore tests/notebooks --ignore tests/browser
	$(BIN)/python -m pytest -q tests/browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/notebooks
	OMP_NUM_THREADS=1 COMPRESSLAB_PROGRESS="$(CURDIR)/.pytest_cache/progress.json" \
		$(BIN)/python -m pytest -q -n 2 --dist loadfile --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=300 labs solutions

browser: .venv/.authors
	COMPRESSLAB_BROWSER=all $(BIN)/python -m pytest -q tests/browser

lint: .venv/.authors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: .venv/.authors
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

release: .venv/.authors
	$(BIN)/compresslab release

bench: .venv/.authors
	$(BIN)/python -m benchmarks --page

clean:
	find compresslab benchmarks tests -name '__pycache__' -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.course: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

.venv/.authors: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --upgrade pip
	$(PIP) --editable '.[test]'
	touch $@ .venv/.course
