# `make demo` tracks a clip that the repository carries; `make test` checks everything. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2

.PHONY: demo test setup format clean

demo: $(BIN)/.installed
	$(BIN)/pointloom track examples/clips/carpenter_bee_thistle.mp4 --grid 18 -o out/demo --overwrite

test: $(BIN)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

setup: $(BIN)/.installed-dev

format: $(BIN)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv out dist build

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(BIN)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(BIN)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,evaluate,physics,dev]'
	.ci/install_opengl
	touch $@ $(BIN)/.installed
