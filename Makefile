# make demo   draw annotated shelf photos and run the whole padding study on them (sets everything up by itself)
# make test   the tests (sets everything up by itself)        make check   lint, types, import rules
# make bench  measure against peers and limits                make test-study    whole studies: the README's commands, the demo's sweep, real photographs
#                                                             make test-cluster  a Ray cluster of several nodes, and what kills them
#                                                             make test-milvus   the tests of indexes on a real Milvus server
#                                                             make test-processors  numeric tests as on an older processor, one thread
#                                                             make coverage      branches that tests reach, and how many mutants they kill
#                                                             make test-all  all of it, with the long simulations and kill tests
VENV ?= .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
ROOMS = $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
DEMO ?= demo
MUTANTS ?= 30

.PHONY: demo coverage test test-study test-processors test-cluster test-milvus test-all check bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(PY) examples/make_shelf.py --output_root $(DEMO)/shelf
	PYTHON=$(abspath $(PY)) bash examples/padding_sweep.sh $(DEMO)/shelf $(DEMO)

test: $(VENV)/.installed-dev
	$(PY) -m pytest -m "not slow and not study and not cluster and not server"

test-study: $(VENV)/.installed-dev
	$(PY) -m pytest -m study

# Without AVX-512 and AVX2 in torch, with OpenBLAS's kernels of 2013, and on one thread: what holds only on this machine fails here.
test-processors: $(VENV)/.installed-dev
	ATEN_CPU_CAPABILITY=default OPENBLAS_CORETYPE=Haswell OMP_NUM_THREADS=1 $(PY) -m pytest -n 0 -m "not slow" \
		tests/plots/test_projection.py tests/common/test_knn.py tests/classifiers/test_classifiers.py tests/evaluation/test_metrics.py

test-cluster: $(VENV)/.installed-dev
	$(PY) -m pytest -m cluster -n 0

test-milvus: $(VENV)/.installed-dev
	$(PY) -m pytest -m server -n 0

test-all: $(VENV)/.installed-dev
	$(PY) -m pytest

coverage: $(VENV)/.installed-dev
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -m "not slow and not cluster and not server"
	$(PY) -m coverage run -m pytest -m "cluster or server" -n 0
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report
	$(PY) -m coverage json --quiet -o coverage.json
	$(PY) tests/rooms.py coverage.json
	$(PY) tests/mutants.py --n $(MUTANTS)

check: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(ROOMS) $(wildcard *.py)
	$(PY) -m mypy --explicit-package-bases benchmarks
	$(PY) -m mypy --explicit-package-bases examples
	$(PY) -m pytest tests/test_architecture.py -n 0

bench: $(VENV)/.installed-dev
	for script in $(filter-out benchmarks/bench.py, $(sort $(wildcard benchmarks/*.py))); do $(PY) $$script || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip

$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-extra.txt requirements-dev.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet -r requirements-dev.txt
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(DEMO) .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
