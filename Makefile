# Two commands on a machine with python3 (>= 3.11) and make: `make demo`, `make test`.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

# Demo and tests use a broker and a database of their own, never those that the environment names. They keep bytecode,
# because a test run starts hundreds of processes: without it each compiles worker/ and tests/ again.
CLEAN := env -u REDIS_URL -u DATABASE_URL -u PYTHONPATH -u PYTHONHOME -u PYTHONDONTWRITEBYTECODE

# --no-deps: the locks are complete and hashed, so the set-up is the same everywhere.
ifneq ($(shell command -v uv),)
MAKE_VENV := UV_PYTHON_DOWNLOADS=never uv venv --quiet --allow-existing --python $(PYTHON) .venv
INSTALL := uv pip install --quiet --python $(BIN)/python --no-deps
else
MAKE_VENV := $(PYTHON) -m venv .venv
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
endif

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready  ## build .venv/ with everything in it

.venv/ready: deploy/requirements-dev.txt pyproject.toml worker/crm_testing/pytest_plugin.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "b2copy-sync needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	@echo "setting up .venv/ (once)"
	@$(MAKE_VENV)
	@$(INSTALL) --require-hashes -r deploy/requirements-dev.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

.venv/browser: deploy/requirements-browser.txt .venv/ready
	@$(INSTALL) --require-hashes -r deploy/requirements-browser.txt
	@touch $@

# What tests of CRMs in Node need. Without it those tests are skipped and say so; make chaos fails.
export NODE_PATH ?= $(CURDIR)/.venv/node_modules

.venv/node_modules/pg/package.json: .venv/ready
	@command -v npm >/dev/null && npm install --silent --no-audit --no-fund --no-save --prefix .venv pg@8.23.1 \
	  || echo "the package pg for Node could not be installed"

demo: setup  ## the fees of 200 withdrawals, end to end, on this machine alone; with CONSOLE=1 look at them
	@$(CLEAN) $(BIN)/b2copy-sync demo $(if $(CONSOLE),--console)

EDGE := tests/b2copy tests/http tests/reconcile tests/sandbox tests/session
INTERFACES := tests/cli tests/console tests/crm tests/demo tests/pytest_plugin tests/watch tests/webhook \
  tests/test_app.py tests/test_celery_commands.py tests/test_developer_guide.py tests/test_readme.py \
  tests/test_routes_table.py

# All tests but those with a target of their own, or a part of them: make test T=tests/flow
test: setup  ## the engine's tests, on a broker and databases of their own; any part of all tests with T=tests/flow
ifdef T
	@$(CLEAN) $(BIN)/python -m pytest -q -n 2 --dist worksteal $(T)
else
	@$(CLEAN) $(BIN)/python -m pytest -q -n 4 --dist worksteal $(addprefix --ignore ,tests/faults tests/deploy $(EDGE) $(INTERFACES)) tests
endif

test-edge: setup  ## where B2COPY begins: client, HTTP, session, reconciliation, and the sandbox that stands for B2COPY (80 s)
	@$(CLEAN) $(BIN)/python -m pytest -q -n 4 --dist worksteal $(EDGE)

test-interfaces: setup  ## what people and CRMs use: commands, console, logs and metrics, documents (three minutes)
	@$(CLEAN) $(BIN)/python -m pytest -q -n 4 --dist worksteal $(INTERFACES)

test-faults: setup  ## a short run of the faults of make chaos, alone on the machine: it measures how fast a fleet recovers
	@$(CLEAN) $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/faults

test-deploy: setup .venv/node_modules/pg/package.json  ## what is in deploy/: least rights, files by their validators, handbook (a minute)
	@$(CLEAN) $(BIN)/python -m pytest -q -n 2 --dist loadfile -rs tests/deploy

browser: .venv/browser  ## the console in a real Chromium: accessibility, refresh, keyboard, ten tasks (needs chromium)
	@$(CLEAN) TEST_BROWSER=required $(BIN)/python -m pytest -q tests/console/test_browser.py tests/console/test_ten_tasks.py

chaos: setup .venv/node_modules/pg/package.json  ## real processes through every fault, and a table of the results (about three quarters of an hour)
	@$(CLEAN) $(BIN)/python -m tests.faults

# All of it, or a part: make bench B="--rounds 2 --only races --who ours taskiq"; how ours grows: make bench B=--growth
bench: setup  ## beside seven other ways to do it: rates, CPU, memory, delays, faults (a quarter of an hour)
	@$(CLEAN) $(BIN)/python -m tests.bench $(B)

bench-console: setup  ## the console's pages on a million operations, and what an open console costs the workers (minutes)
	@$(CLEAN) $(BIN)/python -m tests.bench.console

fuzz: setup  ## random input at every place where bytes of strangers come in (ten minutes)
	@$(CLEAN) $(BIN)/python -m tests.fuzz

mutants: setup  ## faults put into copies of the code: which ones does no test notice? (an hour; `make mutants P=ledger`)
	@$(CLEAN) $(BIN)/python -m tests.mutants $(P)

check: setup  ## lint, types, and secrets in the history
	$(BIN)/ruff check worker tasks tests
	$(BIN)/ruff format --check worker tasks tests
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --severity-level medium worker tasks
	$(BIN)/python -m tests.secret_scan

format: setup  ## format the code
	$(BIN)/ruff check --fix --quiet worker tasks tests
	$(BIN)/ruff format worker tasks tests

packages: setup  ## each package's files, lines and imports
	@$(BIN)/python -m tests.import_graph

env: setup  ## write deploy/env.example, metrics.md and grafana/ from the code
	$(BIN)/python -m tests.env_example
	$(BIN)/python -m tests.watch.metrics_table
	$(BIN)/python -m tests.watch.dashboard

cover: setup  ## branch coverage, child processes included; a report in .coverage-html/
	@$(CLEAN) $(BIN)/coverage erase
	@$(CLEAN) $(BIN)/coverage run -m pytest -q -n 4 --dist worksteal --ignore tests/faults tests; failed=$$?; \
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered && $(BIN)/coverage html --quiet && exit $$failed

lock: setup  ## compile the hashed locks (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra postgres --extra sandbox --extra console --extra tracing pyproject.toml -o deploy/requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --extra postgres --extra demo --extra console --extra tracing --group dev pyproject.toml -o deploy/requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --group build --constraint deploy/requirements-dev.txt -o deploy/requirements-build.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  --group browser --constraint deploy/requirements-dev.txt -o deploy/requirements-browser.txt

sbom: setup  ## write sbom.json: what a worker is made of, with versions and hashes (CycloneDX)
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o sbom.json deploy/requirements.txt

clean:  ## remove what set-up and the tools made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .coverage-html .bench sbom.json

.PHONY: help setup demo test test-edge test-interfaces test-faults test-deploy browser chaos bench bench-console fuzz mutants check format packages env cover lock sbom clean
