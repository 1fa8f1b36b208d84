PYTHON ?= python3
# Another interpreter gets an environment of its own: `make test PYTHON=python3.13`.
VENV := .venv$(if $(filter python3 python,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# torch's own threads would fight for the cores of two tests at once.
NOTEBOOKS := OMP_NUM_THREADS=1 COMPRESSLAB_PROGRESS="$(CURDIR)/.pytest_cache/progress.json"
NBVAL := -q -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=600
# A look: every cell runs, on one seed, and no training takes long.
SHORT := COMPRESSLAB_SEEDS=1 COMPRESSLAB_STEPS=20

.PHONY: lab test findings quick browser lint format release pages site slides bench litert lite clean

lab: $(VENV)/.course
	$(BIN)/compresslab lab

test: $(VENV)/.authors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -q -n 2 tests/kernels
	$(BIN)/python -m pytest -q -n 2 --dist loadscope tests \
		--ignore tests/notebooks --ignore tests/browser
	$(BIN)/python -m pytest -q tests/browser
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/notebooks
# Every cell of the labs as they are handed out. Their answers pass the checks above; what the answered labs
# find is asked by `make findings`.
	$(NOTEBOOKS) $(SHORT) $(BIN)/python -m pytest $(NBVAL) labs

# Every finding, strictly, on all its seeds: the labs as they are released.
findings: $(VENV)/.authors
	$(NOTEBOOKS) COMPRESSLAB_STRICT=1 $(BIN)/python -m pytest $(NBVAL) solutions

quick: $(VENV)/.authors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	COMPRESSLAB_TESTS=quick $(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not slow" tests \
		--ignore tests/notebooks --ignore tests/browser --ignore tests/benchmarks \
		--ignore tests/classroom/grading --ignore tests/test_surroundings.py

browser: $(VENV)/.authors
	COMPRESSLAB_BROWSER=all $(BIN)/python -m pytest -q tests/browser

lint: $(VENV)/.authors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.authors
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

release: $(VENV)/.authors
	$(BIN)/compresslab release

# Pages that are written from records and from the exercises, all of them in a minute; nothing is measured.
pages: $(VENV)/.authors
	$(BIN)/python -m benchmarks.claims --page-only
	$(BIN)/python -m benchmarks.longer
	$(BIN)/python -m benchmarks.articles
	$(BIN)/python -m benchmarks.teaching

# The labs as executed and all pages, for reading; `make site ANSWERS=--answers` is the instructor's build.
site: $(VENV)/.site
	mkdir -p site && find site -mindepth 1 -maxdepth 1 -not -name slides -exec rm -rf {} +
	$(BIN)/python docs/site/assemble.py build/site $(ANSWERS)
	$(BIN)/python -m sphinx -b html -j auto -W --keep-going -q build/site site
	$(BIN)/python -m pytest -q tests/browser/test_site_pages.py

# Slides of every lab, to be shown without a network: site/slides/index.html.
slides: $(VENV)/.site
	$(BIN)/python docs/slides/write.py build/slides
	$(BIN)/python -m sphinx -b revealjs -c docs/slides -W --keep-going -q build/slides site/slides

bench: $(VENV)/.authors
	$(BIN)/python -m benchmarks --page

# LiteRT's converter asks for other versions than the course's: it has an environment of its own. Its packages
# are too many for pip, which gives up looking for versions that fit; uv finds them.
litert: .venv-litert/.litert
	OMP_NUM_THREADS=1 .venv-litert/bin/compresslab longer litert_engine
	.venv-litert/bin/python -m pytest -q tests/runtime/test_litert.py

# A page of files, whose Python runs in the browser: put build/lite behind any web server. Python for the browser
# and NumPy come from Pyodide's own address when somebody opens it.
lite: .venv-lite/.lite
	$(BIN)/python -m compresslab.classroom.light_package build/light
	rm -rf build/wheels
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheels build/light
	.venv-lite/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheels polib
	rm -rf build/pages && mkdir -p build/pages && cp -r light light-zh build/pages
	.venv-lite/bin/jupyter lite build --contents build/pages --output-dir build/lite \
		$$(printf -- '--piplite-wheels %s ' build/wheels/*.whl)

.venv-lite/.lite: pyproject.toml
	test -x .venv-lite/bin/python || $(PYTHON) -m venv .venv-lite
	.venv-lite/bin/python -m pip install --quiet 'jupyterlite-core>=0.8' 'jupyterlite-pyodide-kernel>=0.8' jupyter-server
	touch $@

clean:
	find compresslab benchmarks tests -name '__pycache__' -prune -exec rm -rf {} +

# Before anything is downloaded: what the pinned torch has no wheel for.
$(VENV)/bin/python:
	$(PYTHON) docs/can_install.py
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.course: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

$(VENV)/.authors: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --upgrade pip
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.course

.venv-litert/.litert: pyproject.toml
	test -x .venv-litert/bin/python || $(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install --quiet --upgrade pip uv
	.venv-litert/bin/uv pip install --quiet --python .venv-litert/bin/python --editable '.[litert]' pytest hypothesis
	touch $@

$(VENV)/.site: $(VENV)/.authors
	$(PIP) --editable '.[test,site]'
	touch $@
