# Each target does all its set-up on a fresh machine: it makes a virtual environment, installs, and goes.
PYTHON ?= python3
VENV ?= .venv
SAVE_DIR ?= runs/quickstart
ARGS ?=
WORKERS ?= 2
SIZE ?= published
QUICK ?=

BIN := $(VENV)/bin
FLOOR_BIN := $(VENV)-floor/bin
# one thread a process: the test processes share the cores
PYTEST := -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: quickstart test test-floor lint types imports bench clean

quickstart: $(VENV)/.installed  ## a teacher and three students on the embedded data, in minutes
	$(BIN)/msd quickstart env.save_dir=$(SAVE_DIR) $(ARGS)

# kept compiled, for each process that a test starts would compile the package again
test test-floor: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.tested  ## the whole suite, with the newest versions
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-floor: $(VENV)-floor/.tested  ## the whole suite, with the lowest versions
	OMP_NUM_THREADS=1 $(FLOOR_BIN)/python $(PYTEST)

lint: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developed
	$(BIN)/mypy

imports: $(VENV)/.developed  ## which part may import which
	$(BIN)/lint-imports

bench: $(VENV)/.benched  ## what everything costs; QUICK=1 takes under five minutes, SIZE=small less than one
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench --size $(SIZE) $(if $(QUICK),--quick) $(ARGS)

clean:
	rm -rf $(VENV) $(VENV)-floor build dist *.egg-info

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@

$(VENV)/.developed: $(VENV)/.tested
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

$(VENV)/.benched: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[bench]'
	touch $@

$(VENV)-floor/.tested: setup.py requirements/floor.txt
	$(PYTHON) -m venv $(VENV)-floor
	$(FLOOR_BIN)/python -m pip install -q -r requirements/floor.txt -e '.[test]'
	touch $@
