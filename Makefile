# Everything that can be done with this checkout; `make` alone lists it. The work is done by `python -m ctml.companion`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# ---- dials -----------------------------------------------------------------------------------------------------------
PRESET ?= quick# smoke, quick, long or paper
NB ?=#           notebooks: names, folders or patterns; empty: all
JOBS ?= 1#       notebooks at once; the runs inside a notebook share the cores that are left
SET ?=#          parameters to change: SET="ways=20 shots=5"
DATASET ?=#      for make data; empty: list what there is
MINUTES ?= 20#   for make soak
SEED ?= 0#       for make soak
PYTHON ?= python3
TORCH ?= 2.13.0# the version this checkout was last tested with; a pin only as said below
# recipes read these from the environment, quoted: a value is never pasted into a command
export PRESET NB JOBS SET DATASET MINUTES SEED

# ---- environment -----------------------------------------------------------------------------------------------------
# One folder, .venv, whichever tool makes it: ENV=conda where conda, mamba or micromamba is on the path, else ENV=venv;
# a .venv that exists is kept up to date by the tool that made it.
# uv is used only when asked for (ENV=uv): it reads its own settings and not pip's, so a pip that was told where to find
# a CPU build of torch, or a mirror, would be passed over in silence.
CONDA := $(firstword $(foreach tool,micromamba mamba conda,$(if $(shell command -v $(tool) 2>/dev/null),$(tool))))
ENV ?= $(if $(wildcard .venv/pyvenv.cfg),venv,$(if $(CONDA),conda,venv))
PY := .venv/bin/python
READY := .venv/.ready

# Which torch: PIP_CONSTRAINT if it is set; else constraints.txt if somebody put one here; else, on a machine that shows no
# GPU, the tested version, for which a CPU build may already lie at hand (PIP_FIND_LINKS, a local index). The newest
# release instead would bring several GB of CUDA libraries that such a machine cannot use. With a GPU: no pin.
GPU := $(shell command -v nvidia-smi 2>/dev/null)
ifdef PIP_CONSTRAINT
CONSTRAINT := $(PIP_CONSTRAINT)
else ifneq ($(wildcard constraints.txt),)
CONSTRAINT := constraints.txt
else ifeq ($(GPU),)
CONSTRAINT := .build/constraints.txt
endif

$(READY): pyproject.toml environment.yml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "ctml needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) --version): name another with PYTHON=..."; exit 1; }
	@mkdir -p .build && echo "torch==$(TORCH)" > .build/constraints.txt
	@echo "Environment: .venv by $(ENV)$(if $(CONSTRAINT), with the pins of $(CONSTRAINT))"
	@$(if $(CONSTRAINT),export PIP_CONSTRAINT=$(CONSTRAINT) UV_CONSTRAINT=$(CONSTRAINT);) $(MAKE) --no-print-directory .env-$(ENV)
	@date > $@

.PHONY: .env-conda .env-uv .env-venv
.env-conda:
	if [ -d .venv/conda-meta ]; then verb=update; else verb=create; fi; \
	$(CONDA) $(if $(filter micromamba,$(CONDA)),,env) $$verb $(if $(filter micromamba,$(CONDA)),--yes) --prefix ./.venv --file environment.yml
.env-uv:
	test -x $(PY) || uv venv --python '>=3.10' .venv
	uv pip install --python $(PY) -e '.[notebooks,data,rl,site,test]'
.env-venv:
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet -e '.[notebooks,data,rl,site,test]'

# ---- what to do ------------------------------------------------------------------------------------------------------
.PHONY: help env reproduce smoke rehearse status list test lint lab data benchmark soak cluster-test sync claims site clean

help: ## this list
	@echo "make <target> [DIAL=value ...]"; echo
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo; echo "  PRESET=quick|long|paper|smoke  NB=side_by_side/01_omniglot  JOBS=2  SET=\"ways=20\"  CTML_DATA=folder  CTML_DASK=tcp://host:port"

env: $(READY) ## build the environment in .venv (the others do it when it is missing or out of date)

reproduce: $(READY) ## run every stale notebook at PRESET; tables of notebooks and claims at the end
	$(PY) -m ctml.companion reproduce --preset "$$PRESET" --nb "$$NB" --jobs "$$JOBS" --set "$$SET"

smoke: $(READY) ## run every stale notebook at its smallest, into .build/smoke
	$(PY) -m ctml.companion smoke --nb "$$NB" --jobs "$$JOBS" --set "$$SET"

rehearse: $(READY) ## take the path of PRESET=paper in two meta-steps: nothing but time may be missing there
	$(PY) -m ctml.companion rehearse --nb "$$NB" --jobs "$$JOBS"

status: $(READY) ## say which results are those of the code, and why the others are not
	$(PY) -m ctml.companion status --preset "$$PRESET" --nb "$$NB" --set "$$SET"

list: $(READY) ## list the notebooks and the parameters that SET changes
	$(PY) -m ctml.companion list --nb "$$NB"

test: $(READY) ## all tests, every notebook at preset smoke among them
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal -q

lint: $(READY) ## ruff and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

lab: $(READY) sync ## open JupyterLab at the tour; .py and .ipynb stay in step, saved outputs stay
	$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb

data: $(READY) ## fetch DATASET=omniglot and so on; without DATASET list what there is
	$(PY) -m ctml.data $${DATASET:+"$$DATASET"}

benchmark: $(READY) ## time one meta-step against the libraries that are installed, and COMLN's meta-gradients
	$(PY) benchmarks/meta_step.py
	$(PY) benchmarks/gradient_flow.py
	$(PY) benchmarks/policies.py

soak: $(READY) ## a hostile day: kill, stop, fill and damage for MINUTES=20 while notebooks run, then compare
	$(PY) benchmarks/soak.py --minutes "$$MINUTES" --seed "$$SEED"

cluster-test: $(READY) ## a scheduler and two workers on loopback: one is killed, then the scheduler
	$(PY) -m pytest -q tests/companion/runs/test_hostile.py -k cluster

sync: $(READY) ## write the .ipynb beside each .py, keeping the outputs that were saved
	$(PY) -m ctml.companion sync

claims: $(READY) ## renew results/README.md and the tables of README.md from the results
	$(PY) -m ctml.companion claims

site: $(READY) ## build the static site in .build/site
	$(PY) -m ctml.companion site

clean: ## delete caches, checkpoints and stamps (.build): the next reproduce runs everything again
	rm -rf .build .pytest_cache .ruff_cache
