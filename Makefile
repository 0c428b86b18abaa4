# make repro   run all stages of params.yaml (PRESET=chairs puts that preset in its place first)
# make test    make lint    make docs    make bench    make ui    make clean
# make fuzz    hostile input for every reader, guided by coverage (FUZZ_MINUTES=2 for each); what it finds is in build/fuzz
# make chaos   kills small pipelines and searches 200 times and compares what they leave; some hours, the same command goes on
# make docs-links   asks every outside address of the documentation whether it answers; needs a network
# make VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt test   with the oldest versions that pyproject.toml allows
# make VENV=.venv-device CONSTRAINTS=constraints-device.txt EXTRAS=dev,device test   with the converters for devices, which need other versions

PYTHON ?= python3
PRESET ?=
FUZZ_MINUTES ?= 2
KILLS ?= 200
VENV := .venv
CONSTRAINTS := constraints.txt
EXTRAS := dev
BIN := $(VENV)/bin
# Named after the constraints, so that an environment of other ones is not taken for this one.
STAMP := $(VENV)/.installed-$(notdir $(CONSTRAINTS))
# The venv comes first on the PATH of every command, because DVC starts its stages with `python`.
IN_VENV := PATH="$(abspath $(BIN)):$$PATH" DVC_NO_ANALYTICS=1 MLFLOW_DISABLE_TELEMETRY=true

.DEFAULT_GOAL := help
.PHONY: help venv repro test fuzz chaos lint docs docs-links bench ui clean

help:
	@sed -n 's/^# make/make/p' Makefile

venv: $(STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is missing or older than Python 3.11; name a newer one: make PYTHON=python3.12 venv" >&2; exit 2; }
	@echo "installing into $(VENV) (some minutes and about 6 GB the first time)"
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[$(EXTRAS)]'
	@touch $(STAMP)

repro: $(STAMP)
	@if [ -n "$(PRESET)" ]; then $(IN_VENV) cgankd use --keep "$(PRESET)"; fi
	@$(IN_VENV) cgankd doctor --only repository
	$(IN_VENV) dvc repro
	@$(IN_VENV) cgankd show evaluate

test: $(STAMP)
	$(IN_VENV) python -m pytest -q -n auto --dist worksteal

# atheris has wheels for Linux and macOS; it is no part of the other extras, as nothing but this needs it.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[fuzz]'
	$(IN_VENV) python -W ignore -m tests.fuzz --minutes $(FUZZ_MINUTES)

# Results are in build/chaos/rounds.jsonl; `make clean` deletes them. PostgreSQL is killed at too where CGANKD_TEST_POSTGRES names one.
chaos: $(STAMP)
	$(IN_VENV) python -m tests.chaos --kills $(KILLS)

lint: $(STAMP)
	$(IN_VENV) ruff check .
	$(IN_VENV) mypy

# Every warning is an error: a page in no list of contents, a link inside the site without its target, an unread equation.
# All pages are made anew, as one that is not read again says no warning, and one that is gone would stay.
docs: $(STAMP)
	@rm -rf build/docs build/doctrees
	$(IN_VENV) sphinx-build --quiet --fail-on-warning --keep-going --nitpicky -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

docs-links: $(STAMP)
	$(IN_VENV) sphinx-build --quiet --builder linkcheck --fresh-env -d build/doctrees docs build/links

# About 55 minutes on 2 idle cores; writes benchmarks/results-<date>-<machine>.json and .md.
bench: $(STAMP)
	$(IN_VENV) python -m benchmarks

ui: $(STAMP)
	$(IN_VENV) cgankd ui

# Keeps artifacts, results and MLflow runs.
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find cgankd pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
