# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup test test-all lint types groovy demo clean

help:
	@echo "make demo   import, train, predict and evaluate the demo project (about 10 minutes on 2 cores)"
	@echo "make test   lint, types and tests"
	@echo "make test-all  these, and the tests against real engines: Groovy 4 and Bio-Formats, which it fetches, and chromium"
	@echo "make groovy check the scripts for QuPath with Groovy 4, which it fetches"
	@echo "make setup  the virtual environment in $(VENV) only"
	@echo "make clean  remove what the demo made, but its model, and the caches"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dmmn-qp needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

groovy: $(READY)
	$(BIN)/python -m tests.groovy.tools

test: lint types
	$(BIN)/pytest -m "not engine" -n auto --dist loadfile

test-all: groovy test
	-$(BIN)/python -m tests.bio_formats
	$(BIN)/pytest -m engine -n auto --dist loadfile

# The user's own commands, shown as they run; they work in this folder.
demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: $(READY)
	dmmn-qp import examples/demo/project.qpproj --overwrite
	dmmn-qp train
	dmmn-qp predict --overwrite
	dmmn-qp evaluate --truth examples/demo/truth --json predictions/evaluation.json
	@echo
	@echo "Look at predictions/test-1.overview.png. In QuPath, open examples/demo/project.qpproj (it asks for the"
	@echo "slides: they are in examples/demo/slides), open test-1 and drag predictions/test-1.geojson onto it."

clean:
	rm -rf dataset predictions .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
