# Every target builds .venv/ from requirements.lock first, and runs from it. Any order, as often as you like;
# after the first time nothing is installed and no network is used.
#
#   make demo     the whole line on the embedded data (ARGS="--quick" for a few minutes' worth)
#   make test     the tests (ARGS="-k store" to choose); make test-slow: the slow-marked ones
#   make check    format, lint, types, guards
#   make bench    ratios against peers, on this machine; bench-downloads: against img2dataset;
#                 bench-duplicates; bench-scale: the line over rows; bench-fusion: ways to fuse;
#                 bench-vocoder: sound of spectrograms; bench-training: the training loop;
#                 bench-scenes, bench-vqa: what `mmgen demo scenes` and `mmgen demo vqa` get right
#                 bench-models: generators against multivae's (ARGS="--table" for the tables alone)

# the first Python that is new enough, unless PYTHON is given
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$each" && break; done)
ARGS ?=

BIN := .venv/bin
RUN := $(BIN)/python -m

# The marks name what was installed: contents, not times, so a checkout or a touch installs nothing again,
# and a moved folder is mended. pip reads the user's own configuration (indexes, certificates, wheels).
LOCKED := .venv/.locked-$(shell cat requirements.lock | cksum | tr ' ' '-')
READY := .venv/.ready-$(shell { pwd; cat requirements.lock pyproject.toml; } | cksum | tr ' ' '-')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow bench bench-downloads bench-duplicates bench-scale bench-fusion bench-vocoder bench-training bench-scenes bench-vqa bench-models check format lint types guards lock derived tree clean

help:
	@sed -n 's/^#   //p' Makefile

$(LOCKED):
	@test -n "$(PYTHON)" || { echo "make: wanted Python 3.11 or newer as python3; set PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv .venv
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements.lock
	@rm -f .venv/.locked-* && touch $@

$(READY): $(LOCKED)
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@rm -f .venv/.ready-* && touch $@

install: $(READY)

demo: $(READY)
	$(BIN)/mmgen demo $(ARGS)

# a process a core; a file's tests stay together, for the fixtures that they share
test: $(READY)
	$(RUN) pytest --numprocesses auto --dist loadfile $(ARGS)

# much of it waits for servers that do not answer, beside which others can work
test-slow: $(READY)
	$(RUN) pytest -m slow --numprocesses auto --dist loadfile $(ARGS)

# ratios against peers
bench: $(READY)
	$(RUN) benchmarks.tars $(ARGS)

bench-downloads: $(READY)
	$(RUN) benchmarks.downloads $(ARGS)

bench-scale: $(READY)
	$(RUN) benchmarks.scale $(ARGS)

bench-duplicates: $(READY)
	$(RUN) benchmarks.duplicates $(ARGS)

# resumable: a cell whose result is there is not made again
bench-fusion: $(READY)
	$(RUN) benchmarks.fusion $(ARGS)

bench-vocoder: $(READY)
	$(RUN) benchmarks.vocoder $(ARGS)

bench-training: $(READY)
	$(RUN) benchmarks.training $(ARGS)

# run the line of the data set first, or what of it the store does not have
bench-scenes: $(READY)
	$(RUN) benchmarks.scenes $(ARGS)

bench-vqa: $(READY)
	$(RUN) benchmarks.vqa $(ARGS)

# resumable: a cell whose scores are there is not made again
bench-models: $(READY)
	$(RUN) benchmarks.models $(ARGS)

check: lint types guards

# changes files; `lint` only says what it would change
format: $(READY)
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

lint: $(READY)
	$(RUN) ruff format --check .
	$(RUN) ruff check .

types: $(READY)
	$(RUN) mypy

guards: $(READY)
	$(RUN) pytest -q tests/guards

# new versions within pyproject.toml's bounds and [tool.uv]'s constraints; then the files that repeat them
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header
lock: $(READY)
	$(COMPILE) --all-extras --upgrade --output-file requirements.lock pyproject.toml
	$(MAKE) derived

# what repeats requirements.lock: the images' locks and the conda environment
derived: $(READY)
	$(COMPILE) --extra s3 --extra servers -c requirements.lock --no-annotate -o docker/worker.lock pyproject.toml
	$(COMPILE) -c requirements.lock --no-annotate -o docker/ingest.lock docker/ingest.in
	$(BIN)/python .ci/environment.py

# the README's tree of files
tree: $(READY)
	$(BIN)/python .ci/tree.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
