# Every target works alone on a machine with Python 3.11 or newer: it first makes .venv, once, and again when the
# dependencies change. Settings: PYTHON (which interpreter), PYTEST_ARGS, DEMO_ARGS.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
LOCK := $(shell { pwd; cat pyproject.toml constraints.txt; } | sha256sum | cut -c 1-16)
STAMP := .venv/lock-$(LOCK)
# one process per core, each with one thread: faster on small tensors than one process with all threads
PYTEST_ARGS ?= --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=

# nothing that the caller has activated or set for another project reaches into .venv
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
export PYTHONNOUSERSITE := 1

.PHONY: help install demo test lint format-check ruff mypy imports pytest docs format clean distclean

help:  ## show this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## map, edit, bake and measure the embedded model, into runs/demo (resumes)
	$(BIN)/sombrero run embedded --config examples/demo.toml --out runs/demo $(DEMO_ARGS)

test: lint pytest  ## all checks, then all tests

lint: format-check ruff mypy imports  ## ruff (format and lint), mypy, import-linter

format-check: $(STAMP)
	$(BIN)/ruff format --check .

ruff: $(STAMP)
	$(BIN)/ruff check .

mypy: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

pytest: export HF_HUB_OFFLINE := 1
pytest: export HF_DATASETS_OFFLINE := 1
pytest: export TOKENIZERS_PARALLELISM := false
pytest: export OMP_NUM_THREADS ?= 1
pytest: $(STAMP)  ## the tests alone; PYTEST_ARGS="tests/som -x" for some of them
	$(BIN)/pytest $(PYTEST_ARGS)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(STAMP)  ## build the guide into site/; a broken link is an error
	$(BIN)/mkdocs build --strict

format: $(STAMP)  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(STAMP)  ## make .venv, without running anything

$(STAMP):
	@scripts/bootstrap.sh $@

clean:  ## remove caches and build leftovers; runs and .venv stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf .venv
