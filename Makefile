# A fresh machine needs git, make and Python 3.11 or newer; everything else goes into .venv.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PORT ?=
WORKERS ?=
IMAGE ?= shadow-mlops:latest
FLAGS = $(if $(PORT),--port $(PORT)) $(if $(WORKERS),--workers $(WORKERS))
BENCHES = $(shell grep -l '^if __name__ == "__main__"' benchmarks/*.py)

# onnxruntime has no wheels for 3.15 yet
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)

# Stamps carry the contents they were made for: a checkout that only touches files installs nothing.
FOR := $(shell cat pyproject.toml requirements.txt requirements-dev.txt | cksum | cut -d' ' -f1)
INSTALLED := $(VENV)/.installed-$(FOR)
STORED := feature_repo/data/.filled
INSTALLED_DEV := $(VENV)/.installed-dev-$(FOR)

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed and not on the PATH; install it, or: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No venv could be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(INSTALLED): | $(BIN)/python
	@echo "Installing what the platform needs (about a minute, 0.9 GB) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	@rm -f $(VENV)/.installed-* && touch $@

$(INSTALLED_DEV): | $(BIN)/python
	@echo "Installing what tests and checks need (about a minute, 1.1 GB) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-dev.txt
	@rm -f $(VENV)/.installed-* && touch $(INSTALLED) $@

.PHONY: install
install: $(INSTALLED) ## make .venv with what the platform needs

.PHONY: install-dev
install-dev: $(INSTALLED_DEV) ## the same with what tests and checks need

.PHONY: run
run: $(INSTALLED) $(STORED) ## serve at :8000, restart workers when src/ or the YAML changes [PORT=8000 WORKERS=1]
	@exec $(BIN)/shadow up --reload --feature-repo feature_repo $(FLAGS)

.PHONY: run-prod
run-prod: $(INSTALLED) $(STORED) ## serve at :8000 without watching files [PORT=8000 WORKERS=1]
	@exec $(BIN)/shadow up --feature-repo feature_repo $(FLAGS)

FEAST = $(BIN)/python -W ignore -m feast.cli.cli --chdir feature_repo

feature_repo/data/churn_stats.parquet: | $(BIN)/python
	@echo "Writing the example's feature sources ..."
	@$(BIN)/python -m shadow_mlops.example.sources feature_repo/data

# Written last: where it stands, the store has been filled once.
$(STORED): | $(INSTALLED) feature_repo/data/churn_stats.parquet
	@echo "Filling the example's feature store (about 20 s) ..."
	@$(MAKE) --no-print-directory feast-apply feast-materialize >feature_repo/data/feast.log 2>&1 || { cat feature_repo/data/feast.log >&2; exit 1; }
	@touch $@

.PHONY: feast-apply
feast-apply: $(INSTALLED) feature_repo/data/churn_stats.parquet ## declare what feature_repo/definitions.py says
	@$(FEAST) apply

.PHONY: feast-materialize
feast-materialize: $(INSTALLED) ## bring the newest values of the sources into the online store
	@$(FEAST) materialize 2000-01-01T00:00:00 $$(date -u +%Y-%m-%dT%H:%M:%S)

.PHONY: feast-ui
feast-ui: $(INSTALLED) ## Feast's own pages at http://127.0.0.1:8888
	@$(FEAST) ui --host 127.0.0.1

.PHONY: test
test: $(INSTALLED_DEV) ## every test that takes seconds; needs no Debian package
	@$(BIN)/python -m pytest --ignore=tests/chaos -m "not slow" -n 2 --dist loadfile
	@$(BIN)/python -m pytest tests/chaos -m "not slow"

.PHONY: test-fast
test-fast: $(INSTALLED_DEV) ## tests of one process only
	@$(BIN)/python -m pytest $(wildcard tests/test_*.py) tests/unit -m "not slow and not chaos"

.PHONY: test-cov
test-cov: $(INSTALLED_DEV) ## make test with coverage, as text and in htmlcov/
	@$(BIN)/python -m pytest -m "not slow" --cov=shadow_mlops --cov-report=term --cov-report=html

SAMPLE_CHECK = $(BIN)/python -m monitoring.detect_drift --generate-sample

.PHONY: drift-check
drift-check: $(INSTALLED) ## check a drifted sample of the example; that it has drifted is no failure
	@$(SAMPLE_CHECK) || test $$? -eq 1

.PHONY: drift-report
drift-report: $(INSTALLED) ## the same as a page: reports/drift.html
	@mkdir -p reports
	@$(SAMPLE_CHECK) --format html --output reports/drift.html || test $$? -eq 1

# What these take is expanded by the shell alone: in a text that comes from elsewhere make would run $(shell …).
RETRAINING := reports/retraining

.PHONY: retrain-check
retrain-check: $(INSTALLED) ## has recorded traffic drifted? [SINCE=7d THRESHOLD=0.2 OUTPUT=FILE]; that it has is no failure
	@$(BIN)/shadow drift report --format markdown $${OUTPUT:+--env "$$OUTPUT"} \
		$${SINCE:+--since "$$SINCE"} $${THRESHOLD:+--psi-threshold "$$THRESHOLD"} || test $$? -eq 1

.PHONY: retrain
retrain: $(INSTALLED) ## train a challenger on recorded, labelled traffic [REPLAY=25%: leave out the newest, to judge it]
	@mkdir -p $(RETRAINING)
	@$(BIN)/shadow retrain train $${REPLAY:+--replay "$$REPLAY"} >$(RETRAINING)/trained.json
	@cat $(RETRAINING)/trained.json

.PHONY: retrain-evaluate
retrain-evaluate: $(INSTALLED) ## the gate's rule on what make retrain has left out [OUTPUT=FILE]
	@$(BIN)/shadow gate evaluate --trained $(RETRAINING)/trained.json --format markdown $${OUTPUT:+--env "$$OUTPUT"}

.PHONY: demo-loop
demo-loop: $(INSTALLED) ## drift, retraining, shadow, promotion on live traffic, some five minutes [KILLS=0]
	@$(BIN)/shadow demo loop --feature-repo feature_repo $(if $(KILLS),--kills $(KILLS))

.PHONY: demo-record
demo-record: $(INSTALLED) $(STORED) ## fill the data directory with the example's traffic and labels, drifted at half
	@$(BIN)/shadow demo record --feature-repo feature_repo --drift-at 3000

.PHONY: quality
quality: $(INSTALLED_DEV) ## ruff, mypy --strict, import contracts, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

.PHONY: pre-commit
pre-commit: $(INSTALLED_DEV) ## the hooks of .pre-commit-config.yaml on every file
	@$(BIN)/pre-commit run --all-files

.PHONY: bench
bench: $(INSTALLED_DEV) ## the short benchmarks, as tables
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python $$bench; done

.PHONY: verify
verify: $(INSTALLED_DEV) ## slow tests, long faults and benchmarks (some hours); writes benchmarks/results/*.json
	@$(BIN)/python -m pytest -m slow -n 2 --requests 1000000
	@$(BIN)/python -m pytest -s tests/chaos/test_everything.py --duration 600
	@$(BIN)/python -m pytest -s tests/chaos/test_promotions.py --flips 1000
	@$(BIN)/python -m pytest -s tests/chaos/test_switching.py --duration 600
	@$(BIN)/python -m pytest -s tests/chaos/test_gate_live.py --seeds 20
	@$(BIN)/python -m pytest -s tests/chaos/test_gate_kill.py --kills 50
	@$(BIN)/python -m pytest -s tests/chaos/test_feature_hang.py --keyed 1000 --hang 30
	@$(BIN)/python -m pytest -s tests/chaos/test_demo_loop.py --whole-demo
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python $$bench --write; done

.PHONY: docker-build
docker-build: ## build the image
	docker build -t $(IMAGE) .

.PHONY: docker-run
docker-run: ## run the image at :8000 [PORT=8000]
	docker run --rm -p $(or $(PORT),8000):8000 $(IMAGE)

LOCKING = env -u UV_FIND_LINKS -u UV_INDEX -u UV_EXTRA_INDEX_URL UV_NO_CONFIG=1 UV_DEFAULT_INDEX=https://pypi.org/simple $(BIN)/uv
EXPORT = $(LOCKING) export --quiet --frozen --no-hashes --no-annotate --no-header

.PHONY: lock
lock: $(BIN)/python ## renew uv.lock and the requirements exported from it
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	$(LOCKING) lock $(if $(UPGRADE),--upgrade)
	@{ echo '# What make run needs. Exported from uv.lock by make lock: do not edit. The hashes are in uv.lock.'; \
	  $(EXPORT) --no-default-groups --extra train --extra reload --extra feast; } > requirements.txt
	@{ echo '# The same, and what tests and checks need. Exported from uv.lock by make lock: do not edit.'; \
	  $(EXPORT) --all-extras --group dev; } > requirements-dev.txt

.PHONY: lock-check
lock-check: $(INSTALLED_DEV) ## fail if uv.lock or the requirements are stale
	@$(LOCKING) lock --quiet --check
	@{ sed -n 1p requirements.txt; $(EXPORT) --no-default-groups --extra train --extra reload --extra feast; } | diff -u requirements.txt -
	@{ sed -n 1p requirements-dev.txt; $(EXPORT) --all-extras --group dev; } | diff -u requirements-dev.txt -
