# `make demo` and `make test` set everything up by themselves. Python 3.11 or newer is all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
DEFAULT_TIERS := not slow and not runtime and not browser and not gpu

.PHONY: help install install-runtimes demo lint types test test-all docs audit clean

help:
	@echo "make demo              set up and run the main job on the bundled digits (runs/demo/report.html)"
	@echo "make test              set up, then lint, types, tests and doctests"
	@echo "make docs              the documentation as a site (build/site/index.html)"
	@echo "make install-runtimes  OpenVINO, LiteRT, qonnx, TVM, Ray and MLflow: test-all skips their tests without them"
	@echo "make test-all          the slow, runtime and browser tests on top"
	@echo "make audit             known vulnerabilities of the pinned dependencies (asks a data base on the internet)"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tersa needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "installing into $(VENV) (about 1.5 GB, gigabytes more where pip takes torch with CUDA: see README.md; a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(READY)

install-runtimes: $(READY)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,runtimes,qonnx,tvm,cluster,tracking]"

demo: $(READY)
	$(BIN)/tersa shrink --data digits --max-loss 2.0 --out runs/demo --overwrite

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint types
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "$(DEFAULT_TIERS)"

test-all: $(READY)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "(slow or runtime or browser) and not gpu" tests

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

audit: $(READY)
	.ci/audit $(BIN)/python

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist
