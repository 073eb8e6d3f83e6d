# Each target sets up what it needs in .venv first: on a fresh Debian 12 with Python 3.11, make and git, `make demo` is
# enough. Nothing outside this folder changes, except that root without python3-venv gets that package.

PYTHON ?= python3
GUESTS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/coldboot/guests
APPEND ?= console=ttyS0 panic=-1 cryptomgr.notests quiet
# Options for pytest: make test PYTEST="-k plic"
PYTEST ?=
# Options for coldboot stress
STRESS ?= --minutes 5
# Options for the benchmarks: make bench BENCH="--only sieve --rounds 2"
BENCH ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes start three times as fast with it. Python keeps it by itself, unless PYTHONDONTWRITEBYTECODE is set.
BYTECODE := $(BIN)/python -m compileall -q protocol cpu_proc jit_proc devices benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo compare linux guests test model stress lint format lock clean bench bench-boot bench-retirement

help:
	@echo "make demo    run a small guest: the machine and its translator, end to end"
	@echo "make compare one guest here and on QEMU, side by side; all of them: coldboot compare"
	@echo "make linux   boot Debian's Linux to a shell (fetches it with apt the first time)"
	@echo "make test    lint, then all tests"
	@echo "make model   check the model of the protocol, and that it finds each mistake (needs spin, gcc)"
	@echo "make stress  let guests look for stale code: STRESS=\"--minutes 60\" for longer"
	@echo "make bench   programs here, on QEMU, on Unicorn and on the host: BENCH=\"--quick\" is shorter"
	@echo "make bench-boot  Debian's kernel to its shell beside QEMU, store empty and filled"
	@echo "make bench-retirement  what retiring code costs, beside QEMU"
	@echo "make lint    style, types, and the arrows between packages"
	@echo "make format  put the sources in the project's style"
	@echo "make lock    resolve the dependencies anew"
	@echo "make clean   remove what the targets made here"

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or later is needed: install it, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -q=2 update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -q=2 install -y python3-venv; } >/dev/null 2>&1 || \
	  { echo "make: $(PYTHON) cannot make virtual environments: install the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BYTECODE)
	@touch $(READY)

demo: $(READY)
	$(BIN)/coldboot run

compare: $(READY)
	@$(BIN)/coldboot compare --demo

guests: $(READY)
	$(BIN)/coldboot guests fetch --dir "$(GUESTS)"

linux: guests
	$(BIN)/coldboot run -m 512M -no-reboot -bios "$(GUESTS)/fw_dynamic.bin" -kernel "$(GUESTS)/Image" \
	  -initrd "$(GUESTS)/initramfs.cpio" -append '$(APPEND)'

test: lint
	@$(BYTECODE)
	$(BIN)/python -m pytest -n 2 $(PYTEST)

model: $(READY)
	$(BIN)/python -m protocol.model.check

# Exit status 1: something was found, and stands in stress-findings/.
stress: $(READY)
	$(BIN)/coldboot stress --html stress.html --json stress.json $(STRESS)

# Needs gcc, a cross compiler (Debian: gcc-riscv64-unknown-elf) and QEMU; half an hour.
bench: $(READY)
	@$(BYTECODE)
	$(BIN)/python -m benchmarks.suite --json bench.json --plot bench.svg $(BENCH)

# Beside QEMU on this machine; prints ratios, asserts nothing.
bench-boot: $(READY) guests
	@$(BYTECODE)
	$(BIN)/python -m benchmarks.boot $(BENCH)

# What retiring code costs, beside QEMU. Options: make bench-retirement BENCH="--runs 5 --json costs.json"
bench-retirement: $(READY)
	$(BIN)/python benchmarks/retirement.py $(BENCH)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The lock holds names, versions and hashes; where packages come from is each machine's own business.
lock:
	$(PYTHON) -m venv --clear .cache/lock
	.cache/lock/bin/python -m pip install --quiet pip-tools
	.cache/lock/bin/pip-compile --quiet --all-extras --generate-hashes --strip-extras --no-header --no-annotate \
	  --no-emit-options --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
