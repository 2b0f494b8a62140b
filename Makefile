# Everything that is done to the project. `make test` from a clean checkout sets up and checks all.

PYTHON ?= python3
# A package index that has torch's CPU build, for where the plain one brings CUDA. Unset: the index that pip uses.
TORCH_INDEX ?=
DEMO_ARGS ?=
# 1: `make setup` installs Debian packages, too, without which some tests are skipped.
SYSTEM ?=
# Processes that run tests: as many as cores.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
DEMO_RECIPE := recipes/efficientnet-lite0-elpv-int8.yaml
# The same recipe, short: shows that the whole chain works, not what it gains.
DEMO_SHORT := --set data.size=64 --set stages.finetune.epochs=1 --set stages.measure.budget=5s

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell grep '^torch==' constraints.txt)
# Side by side, since most of them leave a core idle; the tests, which do not, are last: what they end with is what was
# not tried.
BEFORE_TESTS := lint types layers demo-short

.PHONY: help setup demo demo-short test check lint types layers pytest untried torture arm-test bench report schema image image-test clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | expand -t 14

setup: $(STAMP) ## make .venv with the pinned versions; SYSTEM=1: install the Debian packages of tests, too
	$(if $(SYSTEM),@$(PYTHON) -m tests.optional install)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "found $$($(PYTHON) --version 2>&1), allowed: Python 3.11 or newer; name one: make setup PYTHON=python3.12" >&2; \
	  exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install -c constraints.txt -e ".[dev,examples]"
	@touch $(STAMP)

demo: setup ## compress EfficientNet-Lite0 on solar cells and show what it gained
	$(BIN)/secateur run $(DEMO_RECIPE) --out runs/demo $(DEMO_ARGS)

demo-short: setup ## the same in a minute or two, as a check of the whole chain
	$(BIN)/secateur run $(DEMO_RECIPE) --out runs/demo-short --no-test $(DEMO_SHORT)

test: setup check ## set up, then check

check: setup ## all that CI runs
	@start=$$(date +%s); \
	$(MAKE) --no-print-directory --output-sync=target -j2 $(BEFORE_TESTS) || exit 1; \
	echo "make: $(BEFORE_TESTS) took $$(( $$(date +%s) - start )) s"; \
	start=$$(date +%s); \
	$(MAKE) --no-print-directory pytest || exit 1; \
	echo "make: pytest took $$(( $$(date +%s) - start )) s"

lint: setup ## ruff: rules and format; hadolint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: setup ## mypy, strict
	$(BIN)/mypy

layers: setup ## import-linter: imports only go down
	$(BIN)/lint-imports

pytest: setup ## all tests; ends with what was not tried and what installs it
	$(BIN)/pytest -n $(JOBS) --durations=10

untried: setup ## what the last `make pytest` did not try
	$(BIN)/pytest -n $(JOBS) --untried

torture: setup ## kill, crash, fill, damage, mutate: all of tests/torture, of which pytest runs a part
	$(BIN)/pytest tests/torture -n $(JOBS) --torture

arm-test: setup ## bundles on emulated ARM processors; pytest ends with 77 where none can run
	$(BIN)/pytest tests/arm -m arm --durations=5

bench: setup ## run the int8 recipes, write what they bring, and time the command's start
	$(BIN)/python benchmarks/recipes.py
	$(BIN)/python benchmarks/startup.py

report: setup ## show the report of the demo again
	$(BIN)/secateur report runs/demo

schema: setup ## rewrite the JSON Schemas (recipes, results of compare) and the types of the API's stages
	$(BIN)/secateur schema > recipes/schema.json
	$(BIN)/secateur schema latency > pipeline/latency/comparison.schema.json
	$(BIN)/python -m pipeline.api.write_stub > pipeline/api/stages.pyi

image: setup ## build the image that runs recipes, with docker, podman or buildah
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python -m tests.containers.image

image-test: setup ## run the lines of docs/containers.md; "skipped" and exit code 77 of the command where no engine runs
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python -m tests.containers.check

clean: ## remove what was built or cached; runs/ and .venv/ stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
