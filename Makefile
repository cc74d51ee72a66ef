# Everything a developer runs. `make` alone lists the targets.
#
# What Python needs is installed into $(VENV); stamps there say that a step is done, and it is done again when
# what it was made from changes. Cargo decides for itself what to build.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

VENV := .venv
SECONDS := 600
FUZZ_BRIEF_SECONDS := 10

BIN := $(abspath $(VENV))/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)
export VIRTUAL_ENV := $(abspath $(VENV))
export PATH := $(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

NATIVE := python/frontswap/_frontswap.abi3.so
PRELOAD := python/frontswap/_preload.so
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name Cargo.toml)
SHELF := examples/frontswap-shelf
SHELF_SOURCES := $(SHELF)/pyproject.toml $(shell find $(SHELF)/src -name '*.py')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo build test lint test-rust loom fuzz-brief test-python tidy test-programs-quick test-programs fuzz bench format docs needs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## a program in a memory cgroup of a third of what it needs: killed without us, ends well under run
	$(BIN)/python tests/programs/demo.py

build: $(NATIVE) $(PRELOAD) ## build the package into .venv

test: lint test-rust loom fuzz-brief test-python tidy test-programs-quick ## everything that CI runs

lint: needs $(VENV)/.tools $(NATIVE) $(VENV)/.shelf ## formatting, clippy, ruff and mypy
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	ruff format --check .
	ruff check .
	mypy

test-rust: needs ## the tests of the Rust crates
	cargo test --workspace --locked

# Two threads need no limit, three would not end without one; faults of locks show with two or three preemptions.
loom: needs ## the interleavings of threads on the lock of one key
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=4 cargo test --manifest-path tests/loom/Cargo.toml --release --locked \
		--target-dir $(TARGET)/loom

test-python: $(VENV)/.tools $(NATIVE) $(VENV)/.shelf ## the tests of the Python package and of the example package
	pytest tests/python $(SHELF)/tests

tidy: $(VENV)/.tools $(NATIVE) $(VENV)/.shelf ## the rules of the house: who may use whom, lengths, links, commands and examples
	pytest tests/tidy

test-programs-quick: $(VENV)/.tools $(NATIVE) ## real programs within a quarter of their memory: the quick half
	tools/needs programs-quick
	pytest tests/programs -m "not full"

test-programs: $(VENV)/.programs $(NATIVE) ## real programs within a quarter of their memory: all of them
	tools/needs programs
	pytest tests/programs

fuzz-brief: needs ## what fuzzing found before, then each fuzz target for some seconds
	tools/fuzz $(FUZZ_BRIEF_SECONDS)

fuzz: needs ## fuzz each target for long: make fuzz SECONDS=3600
	tools/fuzz $(SECONDS)

bench: $(VENV)/.tools $(NATIVE) ## side by side with peers: prints ratios
	for file in benchmarks/*.py; do $(BIN)/python $$file; done

format: $(VENV)/.tools ## format all code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
	ruff format .

docs: $(NATIVE) ## make the generated parts of the documents anew
	$(BIN)/python -m frontswap._docs docs/errors.md docs/cli.md

needs: ## say what this machine lacks, and the command that installs it
	@tools/needs test

clean: ## remove everything that was made
	rm -rf $(TARGET) $(VENV) fuzz/target fuzz/corpus fuzz/artifacts build dist tests/loom/target
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f python/frontswap/_frontswap*.so python/frontswap/_preload.so
	find python tests examples benchmarks tools -name __pycache__ -exec rm -rf {} +
	rm -rf $(SHELF)/build $(SHELF)/src/*.egg-info

# The virtual environment, with the tool that builds the package.
$(VENV)/.created: pyproject.toml
	tools/needs build
	python3 -m venv --clear $(VENV)
	$(BIN)/python tools/requirements build | $(BIN)/pip install --quiet --requirement /dev/stdin
	touch $@

# The package, as a release build; its Python files are used where they are.
$(NATIVE): $(VENV)/.created $(RUST_SOURCES) $(PRELOAD)
	maturin develop --release --locked
	touch $@

# What `frontswap run` loads into a program: a file of the package, beside the native module.
$(PRELOAD): $(VENV)/.created $(RUST_SOURCES)
	cargo build --release --locked --package frontswap-preload
	cp $(TARGET)/release/libfrontswap_preload.so $@
	touch $@

# What tests and linters need.
$(VENV)/.tools: $(VENV)/.created
	$(BIN)/python tools/requirements testing dev | $(BIN)/pip install --quiet --requirement /dev/stdin
	touch $@

# What the real programs need beyond that.
$(VENV)/.programs: $(VENV)/.tools
	$(BIN)/python tools/requirements programs | $(BIN)/pip install --quiet --requirement /dev/stdin
	touch $@

# The example of a backend from another package, installed as a stranger's would be.
$(VENV)/.shelf: $(NATIVE) $(SHELF_SOURCES)
	$(BIN)/pip install --quiet --no-deps --force-reinstall ./$(SHELF)
	touch $@
