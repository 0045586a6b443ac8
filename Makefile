# Each target sets up everything it needs; nothing is done twice.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test check format lock clean
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "factorlm needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	touch $(STAMP)

setup: $(STAMP)  ## make .venv with the package and its tools

demo: setup  ## answer the study's question on MovieLens-100K: about ten minutes on two cores
	$(BIN)/factorlm compare study=ml100k-text-vs-id

test: setup  ## run the tests, but for a few slow ones
	$(BIN)/python -m pytest

check: setup  ## what CI runs: format, lint, types, import layers, configs, all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/factorlm check
	$(BIN)/python -m pytest -m ''

format: setup  ## format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup  ## write the versions in .venv to requirements.lock
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean:  ## remove the environment and caches, keep runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
