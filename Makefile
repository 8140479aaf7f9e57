# Two commands matter on a fresh machine: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/peers
COURIER := $(VENV)/courier
DOCS := $(VENV)/docs

.PHONY: setup demo demo-federation test test-thorough audit golden check style types cases bench bench-quick bench-simulation bench-engine bench-secure-sum bench-federation page-runtime docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: setup
	$(BIN)/wardround run examples/demo.toml --out runs/demo --fresh

# Three hospitals as processes of their own, over FLARE with TLS, and the same study in one process.
demo-federation: setup $(COURIER)/.installed
	$(BIN)/python examples/federation/demo.py --courier $(COURIER)/bin/python --out runs/federation

# The courier has an environment of its own: without torch, and without wardround.
$(COURIER)/.installed: couriers/flare/requirements.txt couriers/flare/pyproject.toml $(wildcard couriers/flare/*/*.py)
	test -d $(COURIER) || $(PYTHON) -m venv $(COURIER)
	$(COURIER)/bin/python -m pip install --quiet --requirement couriers/flare/requirements.txt
	$(COURIER)/bin/python -m pip install --quiet --force-reinstall --no-deps couriers/flare
	touch $@

# Two processes, with one torch thread in each; the one that ends first takes cases of the other.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal

# One case of each family.
test: check cases

# All cases: the product of each family, and the slow ones.
test-thorough: check docs
	$(PYTEST) -m ''

# Every night: all cases of the audit, the broken schemes, and the audit of a study with its procedure and its model. The
# case that is left out attacks the broken schemes as the second command does.
audit: setup
	$(PYTEST) -m '' tests/audit --deselect tests/audit/test_audit_command.py::test_exactly_the_broken_schemes_are_caught
	$(BIN)/wardround audit --broken --out runs/audit-broken.html
	$(BIN)/wardround audit examples/demo.toml --runs 500 --model --shadows 128 --procedure --keep runs/audit --out runs/audit.html

# Says which frozen numbers a change moves; `python -m tests.golden.make` freezes them anew.
golden: setup
	$(BIN)/python -m tests.golden.make --check

check: style types

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

cases: setup
	$(PYTEST)

bench: bench-simulation

# Ratios beside the committed ones, in a minute and a half; exit code 1 where something became slower.
bench-quick: setup
	$(BIN)/python -m benchmarks.quick

# The peers pin versions that the tested ones exclude, so they get an environment of their own.
bench-simulation: setup
	test -d $(PEERS) || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	$(BIN)/python -m benchmarks.simulation --peer-python $(PEERS)/bin/python $(SIMULATION_OPTIONS)

bench-secure-sum: setup
	test -d $(PEERS) || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement benchmarks/peers_secure_sum.txt
	$(BIN)/python -m benchmarks.secure_sum --peer-python $(PEERS)/bin/python $(SECURE_SUM_OPTIONS)

bench-federation: setup $(COURIER)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.federation --courier $(COURIER)/bin/python $(FEDERATION_OPTIONS)

bench-engine: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks.engine $(ENGINE_OPTIONS)

# What `wardround export --to page` puts into a page; a wheel that is built afterwards has it.
PAGE_RUNTIME := src/wardround/inference/page/runtime
page-runtime:
	npm ci --prefix page --ignore-scripts --no-audit --no-fund
	mkdir -p $(PAGE_RUNTIME)
	cp $(addprefix page/node_modules/onnxruntime-web/dist/,ort.wasm.bundle.min.mjs ort-wasm-simd-threaded.wasm) $(PAGE_RUNTIME)

# The documentation as a site, in build/site. The builder has an environment of its own, and fetches nothing while it builds.
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

$(DOCS)/.installed: docs/requirements.txt
	test -d $(DOCS) || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache runs
