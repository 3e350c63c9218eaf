# Everything sets itself up: `make demo` and `make test` work in a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
unexport PYTHONDONTWRITEBYTECODE  # the tests start many processes: half of their start is compiling

.PHONY: help setup system demo red-team test test-slow check bench bench-train docs clean

help:            ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## create .venv and install sparring with everything the tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

system:          ## Debian packages that some tests use (browser, Fashion-MNIST, PostgreSQL); skipped without root
	@scripts/system-packages.sh

demo: setup      ## attack and audit a small classifier, open the report
	$(BIN)/sparring demo

red-team: setup system  ## the whole exercise on Fashion-MNIST, five minutes (examples/red-team)
	$(MAKE) -C examples/red-team

test: setup system  ## the whole test suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: setup system  ## long checks
	$(BIN)/python -m pytest -q -m slow --timeout 3600

check: setup     ## formatter, linter, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup     ## speed and strength beside the peers (installs them into .bench-venv)
	bench/run.sh

bench-train: setup system  ## train and audit the published nets (hours, resumable), print the tables
	OMP_NUM_THREADS=1 $(BIN)/python bench/train.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/train_cost.py
	$(BIN)/python bench/train.py --table

docs: setup      ## build the documentation into site/
	$(BIN)/python scripts/build_docs.py

clean:           ## remove what the other targets made
	rm -rf $(VENV) .bench-venv site dist .pytest_cache .mypy_cache .ruff_cache
