# The system's Python makes the environment; everything after that runs inside it.
PYTHON  ?= python3
WORKERS ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
# What runs exported models outside of Python, for the tests; they are skipped where npm is not.
NODE    := $(VENV)/node/.installed
NODE_PACKAGE := @huggingface/transformers@4.3.2
PIP     := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format docs bench clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) $(NODE) ## make .venv and install everything, at the pinned versions

# The stamp is written last, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rinsc needs Python 3.11 or newer; name one with: make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Without the scripts of packages, which fetch what no test uses.
$(NODE): $(STAMP) Makefile
	@mkdir -p $(@D)
	@if command -v npm >/dev/null; then \
		npm install --prefix $(@D) --ignore-scripts --no-audit --no-fund --silent $(NODE_PACKAGE) \
		|| echo "npm cannot install $(NODE_PACKAGE); its tests are skipped" >&2; fi
	@touch $@

demo: setup ## train (A^3)B and AB at equal FLOPs, export to ONNX, compare
	$(BIN)/rinsc demo

test: setup ## run all tests
	HYPOTHESIS_PROFILE=$${HYPOTHESIS_PROFILE:-ci} \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: setup ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## build the site of the docs in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

bench: setup ## run the benchmarks; on an idle machine
	$(BIN)/python -m pytest tests/bench -s $(ARGS)

clean: ## remove caches and build outputs; keep .venv and runs
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find rinsc tests -name __pycache__ -type d -prune -exec rm -rf {} +
