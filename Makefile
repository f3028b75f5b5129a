# make demo: the main job on embedded data.   make test: the whole suite.   make lint: style, types, walls.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint faults bench backbones pages clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("featcache needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: $(VENV)/ready
	$(BIN)/featcache demo

# On all cores; the tests of a file share their caches, so they stay together.
test: $(VENV)/ready
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every promise tried, with negative controls; writes docs/reliability.md. FAULTS="--only kills" for one, "--only parts workers cloud sweepers" for the long ones, --quick for a subset.
faults: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.all $(FAULTS)

# featcache beside its peers; about 20 minutes on 2 cores; BENCH=--quick is less, in fp32 alone.
bench: $(VENV)/ready
	$(BIN)/python -m tests.benchmarks.bench docs/benchmarks/$$(nproc)-cores-$$(uname -m)-$$(date +%F) $(BENCH)

# Every torchvision backbone, built and measured; about two minutes.
backbones: $(VENV)/ready
	FEATCACHE_ALL_BACKBONES=1 $(BIN)/python -m pytest tests/backbones/test_load.py

# Pages in a true Chromium (apt install chromium): no error, no request, accessible; screenshots in build/pages.
pages: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable ".[pages]"
	$(BIN)/python -m tests.browser.check_pages --to build/pages $(PAGES)

clean:
	rm -rf $(VENV)
