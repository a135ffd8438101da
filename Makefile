# Type `make` for the list of what there is. Each target sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
GPU := .venv-gpu
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := onnxopt passes cli models tests benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check format docs zoo bench bench-suite bench-selfcheck bench-calibration bench-int8 bench-prune bench-size bench-factorize bench-ci bench-cuda clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

$(VENV)/.run: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --constraint constraints.txt --editable '.[cpu,torch,dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install --constraint constraints.txt --editable '.[cpu,torch,dev,bench]'
	touch $@

install: $(VENV)/.run ## Create .venv with onnxopt and ONNX Runtime for the CPU
	@echo "onnxopt is in $(BIN)/onnxopt; activate with: . $(BIN)/activate"

demo: $(VENV)/.run ## Optimize the network that comes with onnxopt, and print the report
	@mkdir -p out
	$(BIN)/onnxopt demo --output out/demo.opt.onnx --report out/demo.html --report out/demo.md --report out/demo.json

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(VENV)/.dev ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -n auto

check: $(VENV)/.dev ## Lint, types, import layers, stale generated documentation
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(VENV)/.dev ## Generate docs/passes.md and the table in the README
	$(BIN)/python docs/generate.py

zoo: $(VENV)/.dev ## Export, inspect and optimize every network of the zoo: one table
	@mkdir -p out
	$(BIN)/python benchmarks/zoo.py --json out/zoo.json

bench: bench-selfcheck bench-suite ## All measurements: they take minutes and want a quiet machine

bench-suite: $(VENV)/.dev ## Optimize the real models of ../shared/data: accuracy, ratio, size, seconds, memory
	@mkdir -p out
	$(BIN)/python benchmarks/suite.py --json out/suite.json

bench-selfcheck: $(VENV)/.dev ## The clock: models against themselves, with 3 % of waiting, and 30 % apart: about 35 minutes
	@mkdir -p out
	$(BIN)/python benchmarks/selfcheck.py --json out/selfcheck.json

bench-calibration: $(VENV)/.dev ## Calibrate ResNet-50: time and memory against plain inference and ORT's calibrator
	@mkdir -p out
	$(BIN)/python benchmarks/calibration.py --json out/calibration.json

bench-int8: $(VENV)/.dev ## Int8 beside ONNX Runtime's own three tools: accuracy, and the speed of all in one interleaved run
	@mkdir -p out
	$(BIN)/python benchmarks/int8.py --json out/int8.json

bench-prune: $(VENV)/.bench ## Channels pruned beside torch-pruning: scores over the MACs that go, speed; CSV and PNG in out/prune
	@mkdir -p out/prune
	$(BIN)/python benchmarks/prune.py --json out/prune.json

bench-size: $(VENV)/.dev ## The smallest files beside int8 and float16 of others: bytes, zstd, accuracy, speed
	@mkdir -p out
	$(BIN)/python benchmarks/size.py --json out/size.json

bench-ci: $(VENV)/.dev ## The gate: a good model passes, one 10 % slower exits 6, one with a damaged weight exits 4
	$(BIN)/python benchmarks/ci_demo.py out/ci-demo

bench-factorize: $(VENV)/.dev ## Layers of low rank: known ranks found, scores over what is left, errors form by form, in front of int8
	@mkdir -p out
	$(BIN)/python benchmarks/factorize.py --json out/factorize.json

$(GPU)/.run: pyproject.toml constraints.txt
	test -x $(GPU)/bin/python || $(PYTHON) -m venv $(GPU)
	$(GPU)/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt --editable '.[gpu,torch]' 'onnxruntime-gpu[cuda,cudnn]'
	touch $@

bench-cuda: $(GPU)/.run ## float16 on an NVIDIA GPU beside fp32, TF32 and the shipped converter; writes benchmarks/results/cuda.md
	@mkdir -p out
	$(GPU)/bin/python benchmarks/cuda_float16.py all --json out/cuda.json

clean: ## Remove .venv, outputs and caches
	rm -rf $(VENV) $(GPU) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
