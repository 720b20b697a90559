# One virtual environment in .venv, filled from pyproject.toml under constraints.txt.
# It is filled again only when one of those two files changes (stamp files inside .venv).
#
#   PYTHON     the interpreter that makes the environment (3.11 or newer)
#   PIP_FLAGS  extra flags for pip; your own pip configuration is honoured as it is
#   ARGS       extra arguments for `make trace`, `make dashboard` and `make test` (pytest)
#   JOBS       processes that run tests, whole files each (JOBS=2); 0 runs them in pytest's own

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
JOBS ?= 0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt
CODE := edkm profiler dashboard tests benchmarks
# One thread a process: with two, a busy neighbour turns a short test into a long one.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help trace test dashboard lint format clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

trace: $(VENV)/.base ## record the memory ablation of one layer (ARGS="--out runs/NAME")
	$(BIN)/python -m profiler.trace --layer attn0 $(ARGS)

test: $(VENV)/.test ## lint, types and the whole test suite
	$(MAKE) --no-print-directory lint
	$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

dashboard: $(VENV)/.base ## open the dashboard on the folder runs/
	$(BIN)/streamlit run dashboard/app.py -- --runs runs/ $(ARGS)

lint: $(VENV)/.test ## ruff (rules and format) and mypy
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

format: $(VENV)/.test ## let ruff repair what it can
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean: ## remove caches and build output; keeps .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "PYTHON=$(PYTHON): Python 3.11 or newer is needed; try: make PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install the package python3-venv" >&2; \
	  exit 2; }

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[train,fast,compare,test]'
	@touch $@ $(VENV)/.base
