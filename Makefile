# Every target sets up what it needs in .venv first; nothing else has to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TPU_VENV ?= .venv-tpu
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
ARGS ?=

.PHONY: help quickstart test test-slow mutations docs test-tpu preflight lint benchmark clean

help:  ## Say what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

quickstart: $(VENV)/run  ## Run the main job on the embedded digits (ARGS="--request=...")
	$(BIN)/python -m experiments.quickstart $(ARGS)

test: $(VENV)/test  ## Check the style and the types, run the tests and the doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

test-slow: $(VENV)/test  ## Run the tests that take long or start several processes
	$(BIN)/python -m pytest -m 'slow or multiprocess' $(ARGS)

mutations: $(VENV)/test  ## Break the library, one text at a time: do the quick tests notice? (ARGS="sign")
	$(BIN)/python tests/mutations.py $(ARGS)

docs: $(VENV)/docs  ## Build the documentation into build/docs, with warnings as errors
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs $(ARGS)

test-tpu: $(TPU_VENV)/tpu  ## Compile for TPUs without one and test the result (an hour; own environment)
	$(TPU_VENV)/bin/python -m pytest -m tpu_aot $(ARGS)

preflight: $(TPU_VENV)/tpu  ## Does a run fit a TPU slice? (ARGS="--topology=v5e:16x16 --config=...")
	$(TPU_VENV)/bin/python -m launch_tpu.preflight $(ARGS)

benchmark: $(VENV)/run  ## Print the speed and memory ratios (installs nothing; torch is optional)
	$(BIN)/python -m benchmarks.run $(ARGS)

clean:  ## Delete the environment and the caches
	rm -rf $(VENV) $(TPU_VENV) .cache build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "expected Python 3.11 to 3.13, found $$($(PYTHON) --version); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(VENV)/bin/python requirements.lock pyproject.toml setup.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[experiments]'
	touch $@

$(VENV)/test: $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test,tools]'
	touch $@

$(VENV)/docs: $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
	touch $@

# The TPU compiler would be tried as a device by everything else, so it lives apart.
$(TPU_VENV)/tpu: requirements.lock pyproject.toml setup.cfg
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test,tpu]'
	touch $@
