# From an empty machine with Python 3.11 or newer:
#
#   make bitstream                          the bitstream of MNIST for the icebreaker
#   make bitstream BOARD=ecp5 MODEL=digits  of another model, for another board
#   make test                               linter, type checker and all tests
#   make check                              the first two of these alone
#   make check-full DATA=DIR                the long checks too: whole test sets, netlists, deep proofs,
#                                           thousands of random networks, planted faults; an hour or more
#   make demo                               a virtual board classifies images, in this terminal
#   make clean                              forget what was built
#
# Each makes the virtual environment .venv if there is none. What is installed there already stays
# until pyproject.toml or constraints.txt changes.

PYTHON ?= python3
BOARD  ?= ice40
MODEL  ?= mnist
FLAGS  ?=
DATA   ?=

VENV := .venv
BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --constraint constraints.txt

.PHONY: bitstream test check check-full demo clean

bitstream: $(VENV)/.have-toolchain
	$(BIN)/python -m flightrtl.build --board $(BOARD) --model $(MODEL) $(FLAGS)

test: check
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(FLAGS)

check: $(VENV)/.have-everything
	$(BIN)/ruff check
	$(BIN)/mypy

check-full: check
	$(BIN)/python -m benchmarks verification --save $(if $(DATA),--data $(DATA)) $(FLAGS)

demo: $(VENV)/.have-host
	$(BIN)/python -m sim demo $(FLAGS)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache

# A bitstream and the demo do not need torch: stages of installation, of which the largest serves all.
$(VENV)/.have-toolchain: pyproject.toml constraints.txt | $(VENV)
	$(PIP) --editable '.[toolchain]'
	touch $@

$(VENV)/.have-host: pyproject.toml constraints.txt | $(VENV)
	$(PIP) --editable '.[toolchain,host]'
	touch $(VENV)/.have-toolchain $@

$(VENV)/.have-everything: pyproject.toml constraints.txt | $(VENV)
	$(PIP) --editable '.[toolchain,train,sim,host,cluster,dev]'
	touch $(VENV)/.have-toolchain $(VENV)/.have-host $@

$(VENV):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is \
	needed and $(PYTHON) is older: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }
