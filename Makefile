# `make demo` sets up and runs the main job; `make test` sets up and runs every test.
.DEFAULT_GOAL := help
PY := .venv/bin/python
SPECIALISTS := jobs/veran-tools.yaml jobs/farore-debug.yaml jobs/nayru-editor.yaml

.PHONY: help setup demo demo-seeds test test-fast test-sandbox check format base bench lock

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## .venv from the lock, with .venv/bin/launcher and .venv/bin/sky
	@scripts/setup.sh

demo: setup ## the main job: three specialists, raw data to report, on this CPU (about 4 minutes)
	.venv/bin/launcher run $(SPECIALISTS) --local

demo-seeds: setup ## the demo with two training seeds and three data seeds, and the README's tables
	$(PY) -m benchmarks.seeds

test: setup ## every test, the end-to-end ones too
	$(PY) -m pytest -m "not sandbox"

test-fast: setup ## only the tests that take seconds
	$(PY) -m pytest -m "not slow and not sandbox"

test-sandbox: setup ## tests with real local hosts; as root (launcher sandbox doctor)
	$(PY) -m pytest -m sandbox

check: setup ## lint, formatting, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup ## let ruff rewrite the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

base: setup ## rebuild the shipped tiny base model from its seed (about twenty minutes)
	$(PY) -m launcher.tinybase.pretrain --out build/tiny-base

bench: setup ## ratios against other ways of doing the same work, printed with the machine
	$(PY) -m benchmarks

lock: setup ## resolve pyproject.toml anew into requirements.lock
	scripts/lock.sh
