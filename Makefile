# Each target makes the environment it needs. VENV names another place for it; EXTRAS fewer extras, of which tests need all.
VENV ?= .venv
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV) must be one path without spaces)
endif
PYTHON ?= python3
EXTRAS ?= timm,show,video,export
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4
ENV := $(VENV)/.made
# Through the checker around an autograd.Function, dynamo cannot see.
TRACED := tests/contracts/test_units_traced.py

.PHONY: help demo env test check bench-units bench-networks bench-segmentation bench-decoding bench-clips bench-export clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(ENV)  ## Compare units on a small task and write a page of results (5 to 10 minutes on 2 cores)
	$(BIN)/glore demo

$(ENV): pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]" --group dev
	touch $(ENV)

env: $(ENV)  ## Make the environment with everything for development

test: export OMP_NUM_THREADS = 1
test: $(ENV)  ## Run all tests but the slow ones, several at a time
	$(PYTEST) -m "not slow" --jaxtyping-packages=glore,checker.checked --ignore=$(TRACED)
	$(PYTEST) -m "not slow" $(TRACED)

check: $(ENV)  ## Run linters, type checker and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-units: $(ENV)  ## Measure every unit against the direct order (half an hour on 2 cores)
	$(BIN)/python benchmarks/units.py

bench-networks: $(ENV)  ## Count parameters and multiply-adds of the paper's networks (minutes)
	$(BIN)/python benchmarks/networks.py

bench-segmentation: $(ENV)  ## Measure units in a segmentation head at Cityscapes' size (quarter of an hour)
	$(BIN)/python benchmarks/segmentation.py

bench-decoding: $(ENV)  ## Measure how fast clips are decoded (minutes; FOLDER=DIR for videos of yours too)
	$(BIN)/python benchmarks/decoding.py $(if $(FOLDER),"$(FOLDER)")

bench-clips: $(ENV)  ## Measure the published 3-D networks (quarter of an hour)
	$(BIN)/python benchmarks/clips.py

bench-export: $(ENV)  ## Measure inference: folded, exported, compiled, channels last, bf16 (quarter of an hour; SMALL=1 tries it out)
	$(BIN)/python benchmarks/export.py $(if $(SMALL),small)

clean:  ## Remove .venv and everything built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
