# The project's commands: `make help` lists them. Everything is installed into .venv and, the servers'
# programs, into a cache outside the checkout; nothing needs root.

DATA ?= ./demo-data
CASES ?= 1000
SEED ?= 1
MINUTES ?= 20
# How many files of tests run at once; each has servers of its own.
WORKERS ?= 2
# Directories and files to test, e.g. TESTS=efd_pipelines_tests/unit
TESTS ?=
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo dev test services services-stop lint faults soak scale anomalies bench lock clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Settings: DATA=$(DATA) CASES=$(CASES) SEED=$(SEED) MINUTES=$(MINUTES) WORKERS=$(WORKERS) TESTS= PYTEST_ARGS= PYTHON="

demo: install ## the main job on embedded defaults, in DATA=./demo-data; ends with what was made and where
	@$(VENV)/bin/efd demo --data "$(DATA)"

dev: install ## the Dagster UI, daemon and sensors on the demo's data and broker
	@$(VENV)/bin/efd dev --data "$(DATA)"

test: install ## start the real servers, run all the tests (or TESTS=), stop the servers
	@$(PY) -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder $(TESTS) $(PYTEST_ARGS)

install: $(STAMP) ## .venv with the package, all extras and the locked dependencies; quick when up to date

$(STAMP): requirements.lock pyproject.toml tools/install
	@PYTHON="$(PYTHON)" tools/install $(VENV)
	@touch $@

services: install ## start the real servers in .services/; print the settings that reach them
	@$(PY) -m efd_pipelines.servers start

services-stop: ## stop them; their data stay
	@if [ -x $(PY) ]; then $(PY) -m efd_pipelines.servers stop; fi

lint: install ## ruff, format check, types, import rules, Dagster's own validation
	@tools/lint

faults: install ## the fault harness: CASES=1000 SEED=1
	@$(PY) -m efd_pipelines_tests.faults --cases $(CASES) --seed $(SEED)

soak: install ## everything at once under kill -9, readers beside it: MINUTES=20 SEED=1
	@$(PY) -m efd_pipelines_tests.faults.soak --minutes $(MINUTES) --seed $(SEED)

scale: install ## memory and time at full size: drains of 2 GB and of 3,348 topics, merges of 1 GiB; every topic's decoding; 1,500 defects
	@EFD_TEST_SCALE=1 $(PY) -m pytest -s efd_pipelines_tests/integration/test_scale.py efd_pipelines_tests/integration/test_sealing.py \
	    efd_pipelines_tests/integration/test_heal_schedule.py efd_pipelines_tests/integration/test_client_and_influx.py \
	    efd_pipelines_tests/integration/test_exports.py \
	    efd_pipelines_tests/unit/avro efd_pipelines_tests/unit/archive/test_audit_at_scale.py \
	    efd_pipelines_tests/unit/archive/test_audit.py efd_pipelines_tests/unit/archive/test_clean_weeks.py \
	    efd_pipelines_tests/unit/archive/test_sealing.py \
	    efd_pipelines_tests/unit/forecasting efd_pipelines_tests/unit/storage/test_years.py \
	    efd_pipelines_tests/integration/test_stores.py $(PYTEST_ARGS)

anomalies: install ## false alarms in three simulated years, and faults put in: SEED=1 (others than those of make scale)
	@EFD_TEST_SCALE=1 EFD_TEST_SEED=$(SEED)000 $(PY) -m pytest -s efd_pipelines_tests/unit/forecasting/test_anomalies.py $(PYTEST_ARGS)

bench: install ## every benchmark beside its baselines; writes benchmarks/results.md
	@$(PY) -m benchmarks

lock: install ## choose the dependencies' versions anew within pyproject.toml's bounds
	@$(VENV)/bin/uv pip compile pyproject.toml --upgrade --all-extras --generate-hashes --universal \
	    --no-header --no-annotate --quiet --output-file requirements.lock

clean: services-stop ## remove .venv, caches and builds; data and services' data stay
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
