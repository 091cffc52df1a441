# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv first. What they do is in make.py, which
# does it on systems without make too: `python make.py demo`, `python make.py test`.

PYTHON ?= python3
VENV ?= .venv
# Which build of torch is installed: cpu, default (on Linux with CUDA), the address of a package index, or auto, which on
# Linux is cpu unless there is an NVIDIA driver.
TORCH ?= auto
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_MODEL := models/demo-run
MAKE_PY := $(PYTHON) make.py --venv $(VENV) --torch $(TORCH)

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
	@echo "make setup     the virtual environment in $(VENV); the others make it where it is missing, demo with less in it."
	@echo "               Without an NVIDIA driver it gets the CPU build of torch: TORCH=cpu, TORCH=default (on Linux CUDA)"
	@echo "make clean     remove what make demo made, the caches and build files"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(MAKE_PY) setup

lint:
	@$(MAKE_PY) lint

types:
	@$(MAKE_PY) types

test:
	@$(MAKE_PY) test

demo:
	@$(MAKE_PY) demo

groovy: $(READY)
	$(BIN)/python -m tests.groovy.tools

test-all: groovy test
	-$(BIN)/python -m tests.bio_formats
	$(BIN)/pytest -m engine -n auto --dist loadfile

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
