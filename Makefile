# Everything a person does with this repository. Needs a Python (3.11 or newer), make and a network.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
# The first interpreter that is new enough; `make PYTHON=/path/to/python setup` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

HOST ?= localhost
PORT ?= 8080
MODEL ?=
ARGS ?=
ONLY ?=
UV_VERSION := 0.13.9
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --quiet

.PHONY: help setup serve chat test lint format parity clients bench demo-train lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## the environment in .venv; .venv/bin/mxserve is the command

$(VENV)/.installed: requirements.lock requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "mxserve needs Python 3.11 or newer; none was found (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "this Python has no venv module (Debian: python3-venv)" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -q --require-hashes -r requirements.lock -r requirements-dev.lock
	$(PY) -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@touch $@

serve: setup  ## a server on HOST:PORT; the embedded demo model, or MODEL=folder
	$(VENV)/bin/mxserve serve --host $(HOST) --port $(PORT) $(if $(MODEL),--model "$(MODEL)") $(ARGS)

chat: setup  ## a terminal chat with the server on HOST:PORT
	$(VENV)/bin/mxserve chat --url http://$(HOST):$(PORT) $(ARGS)

test: setup lint  ## linters, types and tests, without torch and mlx-lm
	$(PY) -m pytest -m "not parity"

lint: setup  ## ruff and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

format: setup  ## lets ruff put the files in form
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

parity:  ## logits against transformers and mlx-lm, live, in an environment of its own
	PYTHON="$(PYTHON)" bash tests/parity/run.sh

clients: setup  ## real clients and agents against a real server; ONLY=codex,sdk for some
	$(PY) -m tests.clients $(if $(ONLY),--only "$(ONLY)") $(ARGS)

bench: setup  ## speed of this machine; ARGS="--vs mlx-lm" compares
	$(VENV)/bin/mxserve bench $(if $(MODEL),--model "$(MODEL)") $(ARGS)

demo-train:  ## trains model/demo/checkpoint anew: two to three hours on two cores
	test -x .venv-train/bin/python || $(PYTHON) -m venv .venv-train
	.venv-train/bin/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements.lock
	.ci/install-torch .venv-train/bin/python torch==2.13.0 "numpy>=2.3"
	.venv-train/bin/python -u -m model.demo.train $(ARGS)

lock:  ## writes both lock files anew from pyproject.toml (ARGS=--upgrade for newer versions)
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -q uv==$(UV_VERSION); }
	.venv-lock/bin/uv pip compile $(LOCK) $(ARGS) pyproject.toml -o requirements.lock
	.venv-lock/bin/uv pip compile $(LOCK) $(ARGS) -c requirements.lock --group dev -o requirements-dev.lock
	@! grep -nE '://|^-' requirements.lock requirements-dev.lock

clean:  ## removes the environments and caches
	rm -rf .venv .venv-* .pytest_cache .ruff_cache .hypothesis
