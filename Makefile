# Two commands on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
TORCH ?= 2.13.0
BIN := .venv/bin
TEST_ENV := FLWR_TELEMETRY_ENABLED=0 RAY_USAGE_STATS_ENABLED=0 WANDB_MODE=offline OMP_NUM_THREADS=1

help:  ## Show this.
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	sh scripts/install-torch.sh $(BIN)/pip $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

run: .venv/installed  ## Set up .venv and run the quickstart: sinusoids, nothing to download.
	$(BIN)/fedmeta run configs/quickstart.yaml

test: .venv/installed  ## Set up .venv and run the tests.
	$(TEST_ENV) $(BIN)/pytest

test-slow: .venv/installed  ## The long proofs: Flower's own simulation engine.
	$(TEST_ENV) $(BIN)/pytest -m slow

check: .venv/installed  ## Lint, types and tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

bench: .venv/installed  ## Time start-up, overhead and memory; see docs/results.md.
	$(BIN)/python -m benchmarks.overhead

.PHONY: help run test test-slow check bench
