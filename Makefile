# The front door. Everything runs in .venv, which is made here and made anew when pyproject.toml, PYTHON or the
# place of this tree changes.

PYTHON ?= python3
ARGS   ?=
N      ?= 10000

VENV := .venv
BIN  := $(VENV)/bin
# A copied tree brings its .venv along, and that one still points at the tree it was copied from.
KEY   := $(shell printf '%s' '$(CURDIR) $(PYTHON)' | cksum | cut -d' ' -f1)
MADE  := $(VENV)/.made-$(KEY)
RUN   := $(VENV)/.installed-$(KEY)
TEST  := $(VENV)/.installed-test-$(KEY)
LINT  := $(VENV)/.installed-lint-$(KEY)
TOOLS := $(VENV)/.installed-compile-$(KEY)

PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
PYTEST      = $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help check compile test fuzz slow mutants lint types imports bench peers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

check: $(RUN) ## run every case on every kernel (ARGS="vfio" narrows it)
	@$(BIN)/mmlitmus check -j $$(nproc 2>/dev/null || echo 1) $(ARGS)

compile: $(RUN) ## compile the explorer, where there is a C compiler; without, everything runs interpreted
	@if [ -n "$$MMLITMUS_PURE" ]; then echo "compile: MMLITMUS_PURE is set; the explorer stays interpreted"; \
	  elif test -e $(TOOLS) || { echo "install: mypy, which compiles, into $(VENV)"; $(PIP_INSTALL) -e '.[compile]' && touch $(TOOLS); }; \
	  then $(BIN)/python -m mmlitmus.explore.build; \
	  else echo "compile: mypy could not be installed; the explorer stays interpreted"; fi

test: $(TEST) compile ## the default test suite
	@$(PYTEST) -n 2 --dist worksteal $(ARGS)

fuzz: $(TEST) compile ## random programs, engine against enumeration (N=10000; MMLITMUS_PURE=1: interpreted)
	@$(PYTEST) -n 2 -m fuzz --fuzz-runs $(N) $(ARGS)

slow: $(TEST) compile ## the tests that the default suite leaves out for their time
	@$(PYTEST) -n 2 --dist worksteal -m slow $(ARGS)

mutants: $(TEST) ## which of a sample of small changes nothing notices (ARGS="kernel --sample 40"); long, goes on where it was
	@$(BIN)/python tools/mutants.py $(ARGS)

lint: $(LINT) ## ruff
	@$(BIN)/ruff check . $(ARGS)

types: $(LINT) ## mypy
	@$(BIN)/mypy $(ARGS)

imports: $(LINT) ## import-linter: imports run downward only
	@$(BIN)/lint-imports --no-logo $(ARGS)

bench: $(TEST) compile ## time the engine, the memtype database and whole machines (bench/*.py; ARGS=--json)
	@$(BIN)/python bench/engine.py $(ARGS)
	@$(BIN)/python bench/pat.py $(ARGS)
	@$(BIN)/python bench/scale.py $(ARGS)

peers: $(TEST) ## the same small programs in SPIN, Nidhugg and frontrun, where they are installed (ARGS=--quick)
	@$(BIN)/python bench/peers.py $(ARGS)

clean: ## remove .venv, the caches and whatever was built
	@rm -rf $(VENV) src/mmlitmus/explore/_compiled build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .mutants
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "venv: there is no $(PYTHON); name one with make PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "venv: mmlitmus wants Python 3.11, 3.12 or 3.13, and $(PYTHON) is another; name one with make PYTHON=..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "venv: $(PYTHON) cannot make a virtual environment because ensurepip is missing: install the package python3-venv." >&2; exit 2; }
	@echo "venv: making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(RUN): $(MADE)
	@echo "install: mmlitmus, editable, into $(VENV)"
	@$(PIP_INSTALL) -e .
	@touch $@

$(TEST): $(MADE)
	@echo "install: mmlitmus and what its tests need, editable, into $(VENV)"
	@$(PIP_INSTALL) -e '.[test]'
	@touch $(RUN) $@

$(LINT): $(MADE)
	@echo "install: mmlitmus and its linters, editable, into $(VENV)"
	@$(PIP_INSTALL) -e '.[lint]'
	@touch $(RUN) $@
