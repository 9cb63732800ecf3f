# odekit: every target sets up what it needs, from a machine that has Python 3.11 or newer and nothing else.
#   make demo PYTHON=python3.12       another interpreter
#   make test PYTEST_ARGS='-k adjoint'   some of the tests
#   make bench BENCH_ARGS='W1 --quick'   some of the workloads

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/.ready
# The tests run in as many processes as there are cores, each on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8
DEMO_OUT := runs/demo
DEMO := $(BIN)/odekit run ffjord --data pinwheel --gradient checkpointed --trace exact --rtol 1e-3 --atol 1e-3 \
	--steps 600 --batch-size 256 --lr 1e-2 --schedule cosine --eval-every 100 --threads 1 --seed 0 --out $(DEMO_OUT)

export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all bars lint format bench docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## train a small FFJORD on a 2-D density and draw it, in runs/demo
	@if [ -n "$$(ls $(DEMO_OUT) 2>/dev/null)" ] && [ ! -f $(DEMO_OUT)/spec.toml ]; then \
		echo "$(DEMO_OUT) is no run folder (it has no spec.toml): move it away, then run make demo again." >&2; \
		exit 1; \
	fi
	@rm -rf -- $(DEMO_OUT)
	$(DEMO)

test: $(READY) ## the tests, in a few minutes
	$(PYTEST) $(PYTEST_ARGS)

test-slow: $(READY) ## the longer proofs that make test leaves out
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: test test-slow ## all tests, as CI runs them

bars: $(READY) ## what the solvers are held to, next to SciPy's; a quarter of an hour
	$(PYTEST) -m bars $(PYTEST_ARGS)

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## time odekit next to its peers; BENCH_ARGS='W3 --quick' for a part of it
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py --out runs/bench $(BENCH_ARGS)

docs: $(READY) ## build the docs site in build/site, and check its pages
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict
	$(PYTEST) tests/packaging/test_pages.py tests/packaging/test_site.py

clean: ## remove the environment, caches and builds; results in runs/ stay
	rm -rf -- $(ENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf -- {} +

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "odekit needs Python 3.11 or newer, and there is no $(PYTHON) here. Install it, or name yours: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "odekit needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.12" >&2; \
		exit 1; }
	@echo 'Setting up $(ENV); the first time takes a few minutes, most of them for PyTorch.'
	$(PYTHON) -m venv $(ENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
