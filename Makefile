# `make run` and `make test` are all there is to know; `make help` shows the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test faults check bench bench-peers requirements clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_COMPILE := .venv/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options
DEPLOY := PRODUCTION=1 ALLOWED_HOSTS=fanfare.example

help: ## Show what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

run: .venv/installed ## Start everything, and print where to look
	@.venv/bin/python manage.py up

test: .venv/installed-dev ## Every test, on SQLite and on PostgreSQL
	@scripts/browser
	@FANFARE_TEST_DATABASE=sqlite scripts/tests
	@FANFARE_TEST_DATABASE=postgres scripts/tests -m 'not any_database'

faults: .venv/installed-dev ## Every fault under load, on both databases: a quarter of an hour
	@status=0; for database in sqlite postgres; do \
		FANFARE_FAULTS=all FANFARE_TEST_DATABASE=$$database .venv/bin/python -m pytest tests/faults/test_faults.py -q -s \
		|| status=1; done; exit $$status

check: .venv/installed-dev ## Style, types, layers, schema, migrations, deployment
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@export FANFARE_HOME=$$(mktemp -d) && trap 'rm -rf $$FANFARE_HOME' EXIT && \
	.venv/bin/mypy . && \
	.venv/bin/lint-imports --no-logo && \
	.venv/bin/python manage.py spectacular --validate --fail-on-warn > /dev/null && \
	.venv/bin/python manage.py makemigrations --check --dry-run && \
	$(DEPLOY) .venv/bin/python manage.py check --deploy --fail-level WARNING

bench: .venv/installed-dev ## How fast it is, beside its peers: six minutes
	@.venv/bin/python -W ignore -m benchmarks

bench-peers: ## Install the peers that `bench` measures beside
	@benchmarks/peers/install

requirements: .venv/installed-dev ## Pin again what requirements*.in ask for
	@$(PIP_COMPILE) --upgrade --output-file requirements.txt requirements.in
	@$(PIP_COMPILE) --upgrade --output-file requirements-dev.txt requirements-dev.in

clean: ## Remove the virtual environment and all local state
	@rm -rf .venv .fanfare .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache clients/python/src/*.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "venv is missing: install the package python3-venv"; rm -rf .venv; exit 1; }

.venv/installed: requirements.txt | .venv/bin/python
	@echo "Installing what Fanfare needs ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt clients/python/pyproject.toml | .venv/bin/python
	@echo "Installing what the tests need ..."
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e clients/python
	@touch .venv/installed $@
