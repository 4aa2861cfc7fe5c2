# Everything a fresh machine needs is Python >= 3.10 (with its headers), a C compiler and make.
#
#   make demo          denoise a real image stack through an embedded star
#   make test          lint, types, every test
#   make bench         the star, the limit and the rivals side by side, as one table
#   make bench-quick   the same with small inputs, in at most two minutes
#   make soak          a hundred million simulated steps; Ctrl-C, and it goes on where it stopped
#   make chaos         real processes, killed, frozen and cut off: an hour, or CHAOS_SECONDS
#   make clean         remove the environment and everything built
#
# PYTHON names the interpreter that .venv is made of:  make test PYTHON=python3.12

PYTHON ?= python3
PYTEST_ARGS ?=
TESTS_AT_ONCE ?= 2
BENCH_ARGS ?=
SOAK_ARGS ?=
CHAOS_SECONDS ?= 3600
CHAOS_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A change in any of these means that the extension or the environment is no longer what they say.
SOURCES := pyproject.toml setup.py starcore/_framing.pyx starcore/_intake.pxi starcore/_memory.pxi starcore/_placement.pxi starcore/_records.pxi starcore/_scalars.pxi

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak chaos bench bench-quick clean

help:
	@sed -n '3,9s/^#   //p' Makefile

demo: $(VENV)/demo.stamp
	@echo "==> the demo: an image stack through an embedded star"
	@$(BIN)/python examples/image_stack.py

# What mostly waits runs two at a time, a file each; then what takes every core, or measures, has the machine to itself.
# Arguments may choose tests of one half only: pytest's code 5, no tests, is no failure then.
test: lint
	@echo "==> the tests that can run beside others"
	@$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile --no-loadscope-reorder -m "not alone" $(PYTEST_ARGS) $(NONE_IS_FINE)
	@echo "==> the tests that cannot"
	@$(BIN)/python -m pytest -m alone $(PYTEST_ARGS) $(NONE_IS_FINE)

NONE_IS_FINE = $(if $(PYTEST_ARGS),|| test $$? -eq 5)

lint: $(VENV)/test.stamp
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@echo "==> cython-lint"
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint starcore/_framing.pyx starcore/_intake.pxi starcore/_memory.pxi starcore/_placement.pxi starcore/_records.pxi starcore/_scalars.pxi
	@echo "==> mypy --strict"
	@$(BIN)/mypy --strict

chaos: $(VENV)/test.stamp
	@$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) $(CHAOS_ARGS)

bench: $(VENV)/bench.stamp $(VENV)/rivals.tried
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(VENV)/bench.stamp $(VENV)/rivals.tried
	@$(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

soak: $(VENV)/test.stamp
	@$(BIN)/python -m tests.simulation.soak $(SOAK_ARGS)

# One stamp an extra: `make demo` does not wait for the test tools, and a second run installs nothing.
$(VENV)/%.stamp: $(VENV)/made.stamp $(SOURCES)
	@echo "==> building the extension and installing starcore[$*] into $(VENV)"
	@$(PIP) install --editable '.[$*]'
	@touch $@

# A rival that has no build for this Python is no reason not to measure the star; the table names who is left out.
$(VENV)/rivals.tried: $(VENV)/bench.stamp pyproject.toml
	@echo "==> installing the rivals into $(VENV)"
	@$(PIP) install --editable '.[rivals]' || echo "==> not all rivals can be installed here; the others run" >&2
	@touch $@

$(VENV)/made.stamp:
	@echo "==> making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "StarCore needs Python 3.10 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || \
	    { echo "Python.h is missing; install Python's headers (Debian: python3-dev, Fedora: python3-devel)" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "making $(VENV) failed (Debian: apt install python3-venv)" >&2; exit 1; }
	@touch $@

.PRECIOUS: $(VENV)/%.stamp

clean:
	rm -rf $(VENV) build dist starcore.egg-info starcore/_framing.c starcore/_framing*.so demo-output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find starcore tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
