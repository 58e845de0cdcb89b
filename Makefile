# make run    sets up the environment and trains the main job on the embedded data
# make test   sets up the environment and runs the quick test suite
# make lint   checks style and format

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUT_DIR ?= runs/digits

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: run test test-slow lint format clean

run: $(STAMP)
	$(BIN)/python -m experiments.train --output_dir=$(OUTPUT_DIR)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --durations=10

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs

# Installs once; again only when the declared dependencies change.
$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@
