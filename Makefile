# Everything a person or CI runs. Each target sets up what it needs; none asks a question.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
FROM ?= 2013-01-01
TO ?= 2013-12-31
ONLINE_TESTS := $(addprefix ml_platform_tests/online_store/test_,store.py look_up.py publish.py)

.PHONY: help setup demo ui test test-online test-slow test-connect test-browser bench bench-online bench-parsing bench-products smoke-databricks lint format lock clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup:  ## create the environment from the lock file, and install Java 17 if it is missing
	@PYTHON=$(PYTHON) scripts/setup.sh

demo: setup  ## land a year of real flights and run the whole graph over it
	$(BIN)/ml-platform sample flights --from $(FROM) --to $(TO)
	$(BIN)/ml-platform backfill flights --from $(FROM) --to $(TO)
	$(BIN)/ml-platform summary flights

ui: setup  ## open today's page on http://127.0.0.1:3001, Dagster on :3000, MLflow on :5000
	$(BIN)/ml-platform ui

test: setup  ## run all tests but the slow ones
	scripts/install_azurite.sh
	scripts/install_postgresql.sh
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-online: setup  ## run the online store's tests against a database: make test-online URL=...
	@test -n "$$URL" || { echo 'name a database: make test-online URL=mssql+mssqlpython://...' >&2; exit 1; }
	@ML_PLATFORM_TEST_ONLINE_URL="$$URL" $(BIN)/python -m pytest $(ONLINE_TESTS)

test-slow: setup  ## run the slow tests: killed runs, a cluster, parity, a concept shift over months, the browser
	-scripts/install_chromium.sh
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

test-connect: setup  ## run every step against a real Spark Connect server, as on serverless compute
	$(BIN)/python -m pytest -m connect

test-browser: setup  ## click through the UI in a real browser
	scripts/install_chromium.sh
	$(BIN)/python -m pytest -m browser

bench: setup  ## what a history costs, beside DuckDB and beside single days; parts: make bench PARTS="data-sets days"
	$(BIN)/python bench/history.py $(PARTS)

bench-products: setup  ## loading and ticking 100 products of ten years
	$(BIN)/python bench/products.py

bench-parsing: setup  ## reading deliveries beside Arrow's reader; ratios in bench/README.md
	$(BIN)/python bench/parsing.py

bench-online: setup  ## the online store beside Feast and plain SQL; ratios in bench/README.md
	scripts/install_postgresql.sh
	$(BIN)/python bench/online_store.py

smoke-databricks: setup  ## run a small product on Databricks and here, compare, clean up (docs/databricks.md)
	$(BIN)/ml-platform databricks smoke

lint: setup  ## format check, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup  ## pin the dependencies anew, with the hashes of their packages
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -o requirements.lock

clean:  ## remove data, runs and models, but not the environment
	rm -rf var
