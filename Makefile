# make run, make test, make bench, make lint. Each brings .venv up to date first, which is quick when nothing changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Without isolation, so that the build backend too is the one that constraints.txt names.
INSTALL_HERE := $(INSTALL) hatchling editables && $(INSTALL) --no-build-isolation --editable

# What has been installed, and from which description: older than one of these means to install again.
RUN_STAMP := $(VENV)/.installed-run
TEST_STAMP := $(VENV)/.installed-test
DESCRIPTION := pyproject.toml constraints.txt

.PHONY: help run test bench lint clean
.DEFAULT_GOAL := help

help:
	@echo "make run     start the environment in this folder"
	@echo "make test    run the tests (ARGS='-k timer' for some of them)"
	@echo "make bench   run the benchmarks (ARGS=ingest for one of them)"
	@echo "make lint    check style and types"
	@echo "make clean   remove what these made"

run: $(RUN_STAMP)
	@exec $(BIN)/eventhost run $(ARGS)

test: $(TEST_STAMP)
	@$(BIN)/python -m pytest $(ARGS)

bench: $(TEST_STAMP)
	@$(BIN)/python -m benchmarks $(or $(ARGS),all)

# A source folder stands alone, as it does when it runs, so its types are checked from within.
lint: $(TEST_STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@for folder in $(dir $(wildcard eventsources/*/server.py mcpservers/*/server.py)); do \
		echo "mypy $$folder"; \
		(cd $$folder && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache/$$folder .) || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "eventhost needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
		echo "Say which one to use: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "A virtual environment could not be made; on Debian and Ubuntu: apt install python3-venv" >&2; \
		rm -rf $(VENV); exit 1; }

$(RUN_STAMP): $(DESCRIPTION) | $(BIN)/python
	@echo "installing eventhost into $(VENV)"
	@$(INSTALL_HERE) .
	@touch $@

$(TEST_STAMP): $(DESCRIPTION) | $(BIN)/python
	@echo "installing eventhost and what its tests need into $(VENV)"
	@$(INSTALL_HERE) '.[test]'
	@touch $@ $(RUN_STAMP)
