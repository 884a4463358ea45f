# Everything is installed into .venv, once; the stamp files in it make a second run quick.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.c csrc/*.h csrc/*.py)

# The tests start some thousand processes, which would each compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test docs lint bench bench-smoke chaos soak model clean

help:
	@echo "make demo    the chat of example/ on http://127.0.0.1:8000/ (PORT=8001 make demo);"
	@echo "             NODES=2 make demo: on two nodes, through an installed NATS or Redis"
	@echo "make test    the tests; ARGS goes to pytest: make test ARGS='-k worker example'"
	@echo "make chaos   the fault tests in full, more than an hour"
	@echo "make soak    eight processes, on one node and on two, with faults at random for an hour"
	@echo "make model   the model of the wake-up, by spin"
	@echo "make bench   every benchmark, twenty minutes; writes benchmarks/results and docs/images"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make lint    ruff, mypy, and pyright"
	@echo "make clean   removes .venv and everything that was built"

demo: .venv/.demo
	@$(BIN)/python example/demo.py

# Most of a test is waiting for processes: four at a time take half as long on two cores.  Tests
# that share what is costly to make are a group, which one of the four runs.
test: .venv/.test
	$(BIN)/pytest --numprocesses 4 --dist loadgroup $(ARGS)

# All amounts of the fault matrix, and what takes too long for `make test`.
chaos: .venv/.test
	CHAOS_SCALE=1 $(BIN)/pytest --timeout 5000 --numprocesses 3 --dist loadgroup -m "chaos or not chaos" \
	    --ignore-glob '*/test_soak*' \
	    tests/chaos tests/native tests/properties tests/processes tests/relay tests/resume \
	    tests/servers tests/test_packaging.py $(ARGS)

soak: .venv/.test
	CHAOS_SCALE=1 $(BIN)/pytest --timeout 5000 -m chaos tests/chaos/test_soak.py tests/chaos/test_soak_nodes.py $(ARGS)

model:
	csrc/model/check

docs: .venv/.docs
	$(BIN)/python docs/reference.py
	$(BIN)/sphinx-build -q -E -W --keep-going docs build/site
	@echo "build/site/index.html"

lint: .venv/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/typing/mypy.ini
	PYTHONPATH=tests/typing $(BIN)/mypy --config-file tests/typing/mypy-plugin.ini
	$(BIN)/pyright --project tests/typing --pythonpath $(BIN)/python

bench: .venv/.bench
	$(BIN)/python -m benchmarks all --json benchmarks/results/all.json
	$(BIN)/python -m benchmarks plots benchmarks/results/all.json

# Whether the benchmarks run, not how fast: each workload, and each layer.
bench-smoke: .venv/.bench
	$(BIN)/python -m benchmarks all --short --layers notify --json build/bench.json
	$(BIN)/python -m benchmarks latency --short

.venv/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "channels-lite needs Python 3.10 or later: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	@touch $@

# The package itself, with its extension, is built once for all.
.venv/.package: .venv/.pip $(SOURCES)
	$(BIN)/pip install --quiet --editable '.[all]'
	@touch $@

.venv/.demo: .venv/.package example/requirements.txt
	$(BIN)/pip install --quiet --requirement example/requirements.txt
	@touch $@

.venv/.test: .venv/.package
	$(BIN)/pip install --quiet --group test
	@touch $@

.venv/.docs: .venv/.package
	$(BIN)/pip install --quiet --group docs
	@touch $@

.venv/.bench: .venv/.package
	$(BIN)/pip install --quiet --group bench
	@touch $@

# mypy's plugin for Django loads the tests' settings, hence the package itself.
.venv/.lint: .venv/.package
	$(BIN)/pip install --quiet 'channels-lite[testing]' --group lint
	@touch $@

clean:
	rm -rf .venv build dist example/data .pytest_cache .mypy_cache .ruff_cache *.egg-info
	rm -f channels_lite/wake/_wakeup.c channels_lite/wake/_wakeup*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
