# Everything runs in .venv, which is made on first use. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of programs: each would compile torch again

.PHONY: demo test suite coverage test-matrix test-wheel wheel sbom audit test-faults fuzz fuzz-guided test-docs docs docs-output results lint install clean bench-step bench-protocol bench-curves bench-startup bench-bank soak mutants

demo: $(VENV)/.demo
	$(BIN)/vitadapt bench recipes/demo.toml --out runs/demo --plot

# The type checker has one process, so that the tests begin beside it.
test: $(VENV)/.dev
	$(MAKE) --jobs 2 lint suite

# Files in the order of their names: by their numbers of tests, the last ones would be files of few long tests.
suite: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# Files damaged at random, ten minutes of them; docs/input.md says what is expected. FUZZ goes to the script.
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzz/run.py $(FUZZ)

# The same for the binary readers by atheris, which looks at what the damage makes them do; for x86 and Python 3.11 to 3.13.
fuzz-guided: $(VENV)/.dev
	$(BIN)/pip install --quiet -e ".[fuzz]"
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzz/guided.py $(FUZZ)

test-faults: $(VENV)/.dev
	VITADAPT_KILLS=240 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -rP tests/faults tests/utils/test_atomic.py tests/methods tests/weights \
		tests/benchmark tests/project/test_determinism.py

# Releases. The dates in the archives are those of the last commit, so that anybody builds the same bytes (SECURITY.md).
wheel: export SOURCE_DATE_EPOCH := $(shell git log -1 --format=%ct 2>/dev/null || echo 1577836800)
wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

# The wheel in an environment of its own, away from the sources: installed with all it needs, then used.
test-wheel: wheel
	rm -rf build/clean && $(PYTHON) -m venv build/clean/venv
	build/clean/venv/bin/pip install --quiet dist/*.whl
	cd build/clean && venv/bin/vitadapt --help > /dev/null && venv/bin/vitadapt list methods
	cd build/clean && venv/bin/vitadapt doctor --cache cache && venv/bin/vitadapt bench smoke --out runs --cache cache
	rm -rf build/clean

test-matrix: $(VENV)/.release
	$(BIN)/python tools/matrix.py $(ARGS)

sbom: $(VENV)/.release
	$(BIN)/python tools/sbom.py dist/vitadapt.cdx.json

audit: $(VENV)/.release
	$(BIN)/python tools/audit.py

$(VENV)/.release: $(VENV)/.dev
	$(BIN)/pip install --quiet -e ".[release]"
	touch $@

# The site, in build/site; what its pages show as printed, made again; the same, run and compared.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-output: $(VENV)/.dev
	$(BIN)/python tools/docsite/outputs.py

test-docs: $(VENV)/.dev
	$(BIN)/pytest tests/project/test_docs.py tests/project/test_docs_site.py
	$(BIN)/python tools/docsite/outputs.py --check

# Small changes of the core, one at a time: each should turn a test red. ARGS go to the script.
mutants: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tools/mutants.py $(ARGS)

# Lines and branches that the whole suite runs, in all its processes; fails below the figure in pyproject.toml. One folder
# of tests after another: what was stopped goes on there, and `rm -r build/coverage` begins again.
PARTS := $(sort $(foreach file,$(wildcard tests/*/test_*.py tests/*/*/test_*.py),build/coverage/$(word 2,$(subst /, ,$(file)))))
coverage: $(PARTS)
	$(BIN)/coverage combine --quiet build/coverage
	rm -r build/coverage
	$(BIN)/coverage report

$(PARTS): build/coverage/%: | $(VENV)/.dev
	mkdir -p build/coverage
	COVERAGE_FILE=$(CURDIR)/build/coverage/.coverage OMP_NUM_THREADS=1 \
		$(BIN)/coverage run -m pytest -n 2 --dist loadfile tests/$*
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tables and the picture of docs/results.md and the README, made again from the records in docs/results.
RESULTS := build/results/offline
SHOWN := linear-probe discriminant kadaptation lora houlsby ssf bitfit vpt attention fine-tune
results: $(VENV)/.dev
	rm -rf $(RESULTS) && mkdir -p build/results && tar -xJf docs/results/offline.tar.xz -C build/results
	$(BIN)/python benchmarks/results.py pages README.md docs/results.md
	$(BIN)/vitadapt plot $(RESULTS) --only protocol=fixed --only shots=5 $(SHOWN:%=--only method=%) --out docs/images/offline.svg
	cat docs/results.md

# Measurements, never part of the tests; docs/speed.md says how to read them. ARGS go to the script.
bench-step: $(VENV)/.dev
	$(BIN)/python benchmarks/step.py --json runs/step.json --picture runs/step.png $(ARGS)

bench-protocol: $(VENV)/.dev
	$(BIN)/python benchmarks/protocol.py --json runs/protocol.json $(ARGS)
	$(BIN)/python benchmarks/shares.py

bench-curves: $(VENV)/.dev
	$(BIN)/python benchmarks/curves.py $(ARGS)

bench-startup: $(VENV)/.dev
	$(BIN)/python benchmarks/startup.py --records 1000 100000 $(ARGS)

bench-bank: $(VENV)/.dev
	$(BIN)/python benchmarks/bank.py --json runs/bank.json $(ARGS)

# A server for ten minutes under good and bad requests while its adapters change; its memory must stay flat.
soak: $(VENV)/.dev
	$(BIN)/python benchmarks/soak.py --json runs/soak.json $(ARGS)

install: $(VENV)/.demo

# The pip that comes with Python 3.11 takes three times as long to choose what to install.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e ".[offline,plot]"
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --no-compile -e ".[dev]"  # Python compiles what is used, a minute less
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
