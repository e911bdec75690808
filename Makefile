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

federation: .venv/installed  ## A real federation on this machine: TLS, keys, three devices, five rounds of Omniglot.
	$(BIN)/python -m simulations.federation configs/federation.yaml

test-deployment: .venv/installed  ## Devices and servers killed in mid-round, full disks, signed bundles: a quarter of an hour.
	$(TEST_ENV) $(BIN)/pytest -m slow tests/deployment

test-slow: .venv/installed  ## The long proofs: Flower's own simulation engine; every learner, model and engine.
	$(TEST_ENV) $(BIN)/pytest -m slow --ignore tests/deployment

check: .venv/installed  ## Lint, types and tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(MAKE) test

BENCH_ENV := FLWR_TELEMETRY_ENABLED=0 RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0

bench: .venv/installed  ## Time fedmeta against JAX, TorchOpt, pfl, FedJAX and Flower; writes docs/benchmarks.md.
	sh benchmarks/environments.sh $(PYTHON) $(TORCH)
	$(BENCH_ENV) $(BIN)/python -m benchmarks.compare_engines
	$(BENCH_ENV) $(BIN)/python -m benchmarks.end_to_end
	$(BENCH_ENV) $(BIN)/python -m benchmarks.overhead
	$(BENCH_ENV) $(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.report

OUT ?= docs/reproduce
REPRODUCE := $(BIN)/fedmeta compare --out $(OUT)
OMNIGLOT := configs/reproduce/omniglot_5w1s

reproduce: .venv/installed  ## Make what is missing of docs/reproduce; OUT=runs/reproduce makes all anew, in hours.
	$(REPRODUCE)/omniglot_5w1s $(OMNIGLOT)/*.yaml
	$(REPRODUCE)/omniglot_5w1s --seeds 1,2 $(OMNIGLOT)/maml.yaml $(OMNIGLOT)/reptile.yaml $(OMNIGLOT)/protonet.yaml
	$(REPRODUCE)/sinusoid_finn configs/reproduce/sinusoid/finn_*.yaml
	$(REPRODUCE)/sinusoid_frequency configs/reproduce/sinusoid/frequency_*.yaml
	$(BIN)/python -m benchmarks.random_frequency $(OUT)/sinusoid_frequency/runs

reproduce-full: .venv/installed  ## The papers' full schedules and the other columns: days on a CPU, for a GPU.
	$(REPRODUCE)/omniglot_5w1s_full --full $(foreach name,$(PUBLISHED),$(OMNIGLOT)/$(name).yaml)
	$(REPRODUCE)/omniglot_5w5s configs/reproduce/omniglot_5w5s/*.yaml
	$(REPRODUCE)/omniglot_20w1s configs/reproduce/omniglot_20w1s/*.yaml

PUBLISHED := maml fomaml reptile imaml imaml_hf meta_sgd maml_plus_plus protonet

.PHONY: help run test federation test-deployment test-slow check bench reproduce reproduce-full
