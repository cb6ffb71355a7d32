# `make demo` and `make test` do all their own set-up. `make` alone prints the help.

VENV   = .venv
BIN    = $(VENV)/bin
PYTHON =
SEEDS  = 1000
LIVES  = 1000
FLEET  =
FIRST  = 0
MUTANTS =
ARGS   =

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL = help
.PHONY: help demo test test-slow test-all lint sim crashes bench pictures docs wheel clean

help:  ## print this help
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12
	@echo
	@echo 'ARGS="-k clock" is handed on to pytest; PYTHON=... chooses the interpreter of a new $(VENV).'

demo: $(VENV)/package  ## three replicas that edit offline, conflict and agree
	@$(BIN)/synchrotron demo

test: $(VENV)/dev  ## the tests, but for the slow ones, on the newest Python of this machine
	$(BIN)/python -m pytest -n auto -m "not slow" $(ARGS)

test-slow: $(VENV)/dev  ## the slow ones: processes that are killed, faults that are planted, fleets
	$(BIN)/python -m pytest -n auto -m slow $(ARGS)

test-all:  ## every test, on every supported Python of this machine
	@set -e; pythons=$$(.ci/interpreters); for python in $$pythons; do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		$(MAKE) --no-print-directory test VENV=.venvs/$$version PYTHON=$$python; \
	done

lint: $(VENV)/dev  ## ruff, mypy --strict, pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m mypy --strict
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

# Thousands of small files are written: in memory, where the machine has a folder there.
sim: export TMPDIR := $(or $(TMPDIR),$(shell [ -w /dev/shm ] && echo /dev/shm || echo /tmp))
sim: $(VENV)/dev  ## random histories against every rule; SEEDS=n, FIRST=n; MUTANTS=1 plants faults instead
ifeq ($(MUTANTS),)
	$(BIN)/synchrotron simulate --seeds $(SEEDS) --first $(FIRST)
else
	$(BIN)/python -m tests.mutants.hunt $(ARGS)
endif

crashes: $(VENV)/dev  ## replicas killed at random moments; LIVES=n; FLEET=seconds: servers and PostgreSQL too
ifeq ($(FLEET),)
	$(BIN)/python -m tests.crashes.lives --lives $(LIVES)
else
	$(BIN)/python -m tests.postgres.deaths --seconds $(FLEET)
endif

bench: $(VENV)/dev  ## the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/bench  ## draw docs/images/growth-*.svg from what the benchmarks found
	$(BIN)/python -m benchmarks.pictures

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/docs  ## the documentation as a site, into site/; what leads nowhere fails
	$(BIN)/python -m mkdocs build --quiet --clean

wheel: $(VENV)/dev  ## the source distribution, and from it the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

clean:  ## remove what the other targets made
	rm -rf .venv .venvs build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package alone is all that the demo needs; the tools come with the first test or check.

$(VENV)/package: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		python="$(PYTHON)"; [ -n "$$python" ] || python=$$(.ci/interpreters newest) || exit 1; \
		echo "making $(VENV) with $$python"; "$$python" -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/dev: $(VENV)/package
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/package
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/docs: $(VENV)/package
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@
