# The project's commands; `make help` lists them.
SHELL := /bin/bash
python := .venv/bin/python
PYTEST := $(python) -m pytest
FAST := tests/unit tests/contract -n 2

# Real schedulers, servers and sockets share the machine with whatever else runs on it: what fails is
# tried once more by itself, in plain sight, and must then pass. xdist writes a test's group behind its name, by
# which the second run would not find it.
last_failed = .pytest_cache/v/cache/lastfailed
twice = $(1) || { echo "== the failed tests once more"; sed -i -E 's/@[A-Za-z0-9_-]+":/":/' $(last_failed); \
	$(1) --last-failed --last-failed-no-failures none; }

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-demo demo test check fast faults bench clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## everything: .venv, .venv-serve (vLLM) and, as root on Debian, Slurm and Chromium
	@scripts/setup dev serve slurm browser

setup-dev:
	@scripts/setup dev

setup-demo:
	@scripts/setup dev serve

demo: setup-demo ## the whole job on this machine; ANNOTATOR=me to answer the alerts yourself
	@$(python) scripts/demo.py

test: setup ## every test, fast ones first
	$(PYTEST) $(FAST) -m "not slurm and not vllm"
	$(call twice,$(PYTEST) tests/integration -n 2 --dist loadgroup -m "not slurm and not vllm")
	$(call twice,$(PYTEST) tests -n 2 --dist loadgroup -m "slurm or vllm")

check: setup-dev ## ruff, mypy --strict, import-linter, fast tests
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/lint-imports
	$(MAKE) --no-print-directory fast

fast: setup-dev ## unit and contract tests only
	$(PYTEST) $(FAST) -m "not slurm and not vllm"

faults: setup-dev ## 500 faults over agents, router and Slack while 2,000 alerts are answered, then a flood of rubbish
	CAMPAIGN=16,500,125,0.6 CAMPAIGN_ROUNDS=4 CAMPAIGN_SECONDS=420 $(PYTEST) -q -s tests/integration/test_campaign.py
	CHAOS=16,15,2,52,32 $(PYTEST) -q -s tests/integration/test_guidance_chaos.py
	INTRUDER_FRAMES=200000 $(PYTEST) -q tests/integration/test_router_intruders.py

bench: setup ## JSON lines: ratios against named baselines
	@$(python) benchmarks/run.py

clean: ## remove caches and build products (never runs/ or the environments)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
