# Everything happens in .venv; a second `make` does not install again unless pyproject.toml or constraints.txt changed.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check docs clean

demo: .venv/demo.stamp
	$(BIN)/interp demo --out runs/demo

test: .venv/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

check: .venv/check.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
	$(BIN)/python -m pytest -m slow tests/test_notebooks.py

# make docs SKIP=1 does not execute the notebooks.
docs: .venv/docs.stamp
	$(BIN)/python docs/build.py $(if $(SKIP),--skip-notebooks)

clean:
	rm -rf .venv build site *.egg-info

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[english,eval]"
	touch $@

.venv/test.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[english,eval,lens,dev]"
	touch $@ .venv/demo.stamp

.venv/check.stamp: .venv/test.stamp
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[english,eval,lens,dev,notebooks]"
	touch $@

.venv/docs.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[english,eval,docs]"
	touch $@ .venv/demo.stamp

.venv/bin/python:
	$(PYTHON) -m venv .venv
