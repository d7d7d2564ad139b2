# A fresh clone needs Python 3.11 or later, pip and make; the rest comes by itself. `make` lists what there is.
PYTHON ?= python3
# Arguments of pip for torch alone, such as an --index-url that has the small CPU build.
TORCH_INDEX_ARGS ?=
# Two workers, each file of tests in one of them: servers that a file shares are started once.
TEST_ARGS ?= -n 2 --dist loadfile
BENCH_ARGS ?=
QUALITY_ARGS ?=

BIN := .venv/bin
VENV := .venv/.installed
NATIVE := .venv/.native
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types layers protos stubs services bench quality soak durable proto clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(NATIVE) ## a server, real weather of 2015, live predictions and their errors
	$(BIN)/tidegate demo weather

test: $(NATIVE) ## all tests but the soak (TEST_ARGS="-k name" picks some)
	@# The variable reaches the servers that tests start: there too a warning is an error.
	PYTHONWARNINGS=error $(BIN)/python -m pytest $(TEST_ARGS)

check: format lint types layers protos stubs test ## everything CI asks for, tests included

format: $(NATIVE) ## layout of the Python code
	$(BIN)/ruff format --check .

lint: $(NATIVE) ## ruff's rules
	$(BIN)/ruff check .

types: $(NATIVE) ## mypy, strict
	$(BIN)/mypy

layers: $(NATIVE) ## who may import whom
	$(BIN)/lint-imports

protos: ## buf's rules for protos/ (where there is Node.js)
	scripts/lint-protos

stubs: $(NATIVE) ## generated code is what protos/ gives
	$(BIN)/python scripts/generate_protos.py --check

proto: $(NATIVE) ## generate the stubs from protos/
	$(BIN)/python scripts/generate_protos.py

services: ## install the Debian packages that tests and benchmarks use
	scripts/services

bench: $(NATIVE) ## the benchmarks; ten minutes (BENCH_ARGS go to them)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

quality: $(NATIVE) ## trained models beside what they must reach; minutes (QUALITY_ARGS="etth1 airports" picks some)
	$(BIN)/python -m tests.quality $(QUALITY_ARGS)

soak: $(NATIVE) ## the tests that run for long
	$(BIN)/python -m pytest -m soak --timeout 0
	$(BIN)/python -m tests.soaks

durable: $(NATIVE) ## crashes, replicas, outages, a million sessions: half an hour (DURABLE_ARGS="crash replicas" picks some)
	$(BIN)/python -m tests.soaks $(DURABLE_ARGS)

clean: ## remove caches and build products; .venv stays
	rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache scripts/buf/node_modules
	find service tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and alone: only it is looked for where TORCH_INDEX_ARGS points.
$(VENV): pyproject.toml constraints.txt
	@echo "Installing Tidegate and its tools into .venv. The first time this takes some minutes (torch is large)."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Tidegate needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "No venv could be made; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PIP) install --quiet --constraint constraints.txt $(TORCH_INDEX_ARGS) torch
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What pip built, built anew when its sources changed. Where there is no compiler, Tidegate is slower.
$(NATIVE): $(VENV) $(wildcard service/tidegate/native/*.[ch]) service/tidegate/native/build.py
	@$(BIN)/python service/tidegate/native/build.py || true
	@touch $@
