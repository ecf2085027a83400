# Two commands: `make demo` and `make test`. Each makes .venv and installs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: two busy torch threads on two cores were measured 10 x slower than one.
export OMP_NUM_THREADS ?= 1
# Extra arguments for installing torch, for example: --index-url https://download.pytorch.org/whl/cpu
TORCH_INSTALL ?=

.PHONY: demo test lint bench serve clean

demo: $(VENV)/.installed
	$(BIN)/recycler demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	for script in candidate demo_figures kill_resume resume honesty racing search_bench merge_vs_mergekit; do $(BIN)/python bench/$$script.py || exit 1; done

serve: $(VENV)/.installed
	$(BIN)/recycler serve

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the pinned packages into $(VENV): about three minutes and 2.5 GB, once."
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt $(TORCH_INSTALL) torch==2.13.0
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,postgres]'
	@touch $@

clean:
	rm -rf $(VENV)
