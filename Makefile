# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
STAMP  := $(VENV)/.installed

.PHONY: setup demo test lint format types bench device-check reproduce clean

setup: $(STAMP)

# llama.cpp is compiled once by pip and kept in pip's own wheel cache, outside the checkout.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[trainer,server,demo,dev]'
	touch $@

demo: setup
	$(BIN)/llamacart train cartridges/library/french --output demo/french.gguf
	$(BIN)/python cartridges/library/demo.py demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What the page knows of the API. Checking it needs npm, which nothing else does.
types: setup
	$(BIN)/python tests/server/page/write_types.py
	npx --yes --package typescript@5.9.3 tsc --project server/llamacart_server/page/jsconfig.json

# The other benchmarks take a running server's address: see benchmarks/README.md.
bench: setup
	test -f demo/french.gguf || \
		$(BIN)/llamacart train cartridges/library/french --output demo/french.gguf
	for name in hook_error decode_overhead mixed_batch prefill memory; do \
		$(BIN)/python benchmarks/$$name.py --json benchmarks/results/$$name.json || exit 1; \
	done

# On a device, if this build of llama.cpp has one: see docs/metal.md.
device-check: setup
	$(BIN)/python benchmarks/device/check.py --json benchmarks/results/device-check.json

# The paper's data sets are not part of this repository: DATA names a folder that holds them.
reproduce: setup
	$(BIN)/llamacart reproduce paper --data $(DATA) --model $(or $(MODEL),demo) --json demo/paper.json

clean:
	rm -rf $(VENV) demo
