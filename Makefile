# Everything starts here. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
# Wherever pip puts it, the interpreter that installed it finds it.
UV = $(shell command -v uv || echo $(PYTHON) -m uv)
RUN := $(UV) run --no-sync
export PATH := $(HOME)/.local/bin:$(PATH)
# The certificates of this machine, as pip takes them: behind a company's proxy those that uv brings along are not enough.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt),)
export UV_SYSTEM_CERTS := 1
endif
# Where it is set, every one of Ray's processes compiles torch anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1|\2/' | column -t -s '|'

# Else each of Ray's processes compiles what it imports, ten at once, and on a busy machine none is ready in time: 23,042 files,
# 50 s of processor time once, 1.7 s when they are compiled.
setup: export UV_COMPILE_BYTECODE := 1
setup: export UV_COMPILE_BYTECODE_TIMEOUT := 600
setup: ## Install uv if it is missing, then the locked environment
	@$(UV) --version >/dev/null 2>&1 || { echo "installing uv into $(HOME)/.local" >&2; \
		$(PYTHON) -m pip install --quiet --user uv 2>/dev/null \
		|| $(PYTHON) -m pip install --quiet --user --break-system-packages uv 2>/dev/null \
		|| $(PYTHON) -m pip install --quiet uv \
		|| { echo "uv cannot be installed: install pip for $(PYTHON), or uv itself (https://docs.astral.sh/uv)" >&2; exit 1; }; }
	@$(UV) sync --frozen $(if $(wildcard .venv),--quiet)
	@[ "$(MAKECMDGOALS)" != setup ] || echo "ready; next: ./undertone demo (a sample call, a minute), or ./undertone serve"

demo: setup ## Start everything in one place, send the sample call, show its utterances; the first thing to try
	@./undertone demo

serve: setup ## Start everything in one place and serve HTTP on port 8000 until Ctrl-C
	@./undertone serve

test: lint ## Every test; those with Ray after the others, one by one
	@OMP_NUM_THREADS=1 $(RUN) pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not ray"
	@$(RUN) pytest -q -m ray

check: lint ## The fast part: lint, types, import rule, unit tests
	@OMP_NUM_THREADS=1 $(RUN) pytest -q -n 2 -m "not slow"

lint: setup
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-cache >/dev/null || $(RUN) lint-imports --no-cache

kafka: setup ## Start a real one-node Kafka broker (Java 17 and Maven) and print its address
	@$(RUN) python tools/kafka/broker.py start

bench: setup ## Measure speed, capacity, latency and memory; writes bench.json (PART=encoders, engines, endurance, interim or pictures: only that)
	@$(RUN) python -m tests.benchmarks.bench $(PART)

SEED ?= 1
COUNT ?= 2000
fuzz: setup ## Push hostile media of every format through cutting and decoding (SEED=1 COUNT=2000)
	@OMP_NUM_THREADS=1 $(RUN) python -m tests.fuzz.fuzz --seed $(SEED) --count $(COUNT)

cases: setup ## Media as it really comes: input, how sent, right, found (UNDERTONE_DATA names the data folder)
	@OMP_NUM_THREADS=1 $(RUN) python -m tests.pipelines.media.media_cases

MINUTES ?= 10
soak: setup ## Live calls without a pause; memory, lag and latency over time in soak.png (MINUTES=10)
	@$(RUN) python -m tests.benchmarks.soak --minutes $(MINUTES)

FAULTS ?= 200
chaos: setup ## Calls through the whole system while its parts are killed, stopped and cut off (SEED=1 FAULTS=200)
	@OMP_NUM_THREADS=1 $(RUN) python -m tests.chaos.chaos --seed $(SEED) --faults $(FAULTS)

schema: setup ## Write docs/result.schema.json anew after a change of what a result is
	@$(RUN) python -m tools.result_schema > docs/result.schema.json

format: setup ## Format the code and mend what ruff can mend
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

.PHONY: help setup demo serve test check lint kafka bench soak fuzz cases chaos schema format
