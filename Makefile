# make repro   run all stages of params.yaml (PRESET=chairs puts that preset in its place first)
# make test    make lint    make bench    make ui    make clean

PYTHON ?= python3
PRESET ?=
BIN := .venv/bin
STAMP := .venv/.installed
# The venv comes first on the PATH of every command, because DVC starts its stages with `python`.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH" DVC_NO_ANALYTICS=1 MLFLOW_DISABLE_TELEMETRY=true

.DEFAULT_GOAL := help
.PHONY: help venv repro test lint bench ui clean

help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12 venv" >&2; exit 2; }
	@echo "installing into .venv (some minutes and about 6 GB the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

repro: $(STAMP)
	@if [ -n "$(PRESET)" ]; then $(IN_VENV) cgankd use --keep "$(PRESET)"; fi
	@$(IN_VENV) cgankd doctor --only repository
	$(IN_VENV) dvc repro
	@$(IN_VENV) cgankd show evaluate

test: $(STAMP)
	$(IN_VENV) python -m pytest -q -n auto

lint: $(STAMP)
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

# About 40 minutes on 2 idle cores; writes benchmarks/results-<date>-<machine>.json and .md.
bench: $(STAMP)
	$(IN_VENV) python -m benchmarks

ui: $(STAMP)
	$(IN_VENV) cgankd ui

# Keeps artifacts, results and MLflow runs.
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cgankd pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
