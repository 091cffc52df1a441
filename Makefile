# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_MODEL := models/demo-run

.PHONY: help setup test test-all lint types groovy docs demo clean

help:
	@echo "make demo      import, train, predict and evaluate the demo project (about 3 minutes on 2 cores)"
	@echo "make test      lint, types and tests"
	@echo "make test-all  these, and the tests against real engines (Groovy 4 and Bio-Formats, which it fetches, a browser ...),"
	@echo "               kills and full disks"
	@echo "make lint      ruff: rules and format"
	@echo "make types     mypy"
	@echo "make docs      the documentation as pages, in docs/_build"
	@echo "make groovy    compile and lint the scripts for QuPath with Groovy 4, which it fetches"
	@echo "make setup     the virtual environment in $(VENV); the others make it where it is missing"
	@echo "make clean     remove what make demo made, the caches and build files"

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

# The user's own commands, shown as they run; they work in this folder. The model has a name of its own, so that
# `make clean` knows it from yours.
demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: $(READY)
	dmmn-qp import examples/demo/project.qpproj --overwrite
	dmmn-qp train --out $(DEMO_MODEL) --overwrite
	dmmn-qp predict --overwrite
	dmmn-qp evaluate --truth examples/demo/truth --out predictions/evaluation --overwrite
	@echo
	@echo "Look at predictions/test-1.overview.png, and at predictions/evaluation/evaluation.html in a browser. In QuPath,"
	@echo "open examples/demo/project.qpproj (it asks for the slides: they are in examples/demo/slides), open test-1 and"
	@echo "drag predictions/test-1.geojson onto it."

# A dataset or predictions are the demo's where run.json names its slides or project, and no slide from elsewhere. A
# ledger in which nothing is checked goes with the dataset.
clean:
	rm -rf $(DEMO_MODEL) .pytest_cache .mypy_cache .ruff_cache .hypothesis build docs/_build *.egg-info
	@for made in dataset predictions; do \
	  if grep -qs 'examples/demo/' $$made/run.json \
	      && ! grep -E '"(path|source)":' $$made/run.json | grep -qv 'examples/demo/'; then \
	    echo "rm -rf $$made"; rm -rf $$made; fi; done
	@if [ -f loop/ledger.json ] && [ ! -e dataset ] && ! grep -q '"kind": "model"' loop/ledger.json; then rm -rf loop; fi

docs: $(READY)
	$(BIN)/python -m sphinx -E -W --keep-going -n -q -c docs . docs/_build
	@echo "Open docs/_build/index.html in a browser."
