# make         the real run: Oxford-IIIT Pet, all five stages, into models/
# make demo    the same on drawn animals: no download, small, into models/demo/
# make test    the tests and ruff
#
# A stage runs if a file it reads is newer than what it writes, or its settings changed; the stage itself then
# compares script, settings and inputs by content (--if-needed) and does nothing if none differs.
# Settings: make TRAINING="--epochs 80" PRUNING="--sparsity 0.8"

PYTHON ?= python3
MODELS ?= models
VENV   := .venv
RUN    := $(VENV)/bin/python

DATA         ?=
TRAINING     ?=
PRUNING      ?=
QUANTIZATION ?=
EVALUATION   ?=

ARGUMENTS = --models-dir $(MODELS) --if-needed

.PHONY: all demo test benchmark clean FORCE
all: $(MODELS)/report.html

$(VENV)/ready: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14) and 'Python 3.10 to 3.13 is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready tests/requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# The settings of a stage, in a file that changes only when they do.
$(MODELS)/.settings-%: FORCE
	@mkdir -p $(MODELS)
	@echo '$($*)' | cmp -s - $@ || echo '$($*)' > $@

$(MODELS)/dataset/dataset.json: data_preparation.py $(MODELS)/.settings-DATA | $(VENV)/ready
	$(RUN) data_preparation.py $(ARGUMENTS) $(DATA)

$(MODELS)/original_model.h5: training.py $(MODELS)/dataset/dataset.json $(MODELS)/.settings-TRAINING | $(VENV)/ready
	$(RUN) training.py $(ARGUMENTS) --resume $(TRAINING)

$(MODELS)/pruned_model.h5: pruning.py $(MODELS)/original_model.h5 $(MODELS)/.settings-PRUNING | $(VENV)/ready
	$(RUN) pruning.py $(ARGUMENTS) --resume $(PRUNING)

# One run writes all three .tflite files; the last of them stands for them.
$(MODELS)/float16_quantized_model.tflite: quantization.py $(MODELS)/pruned_model.h5 $(MODELS)/.settings-QUANTIZATION | $(VENV)/ready
	$(RUN) quantization.py $(ARGUMENTS) $(QUANTIZATION)

$(MODELS)/dynamic_quantized_model.tflite $(MODELS)/int8_quantized_model.tflite: $(MODELS)/float16_quantized_model.tflite
	@test -e $@ || $(RUN) quantization.py $(ARGUMENTS) $(QUANTIZATION)

$(MODELS)/evaluation.json: evaluation.py $(MODELS)/dynamic_quantized_model.tflite $(MODELS)/int8_quantized_model.tflite $(MODELS)/float16_quantized_model.tflite $(MODELS)/.settings-EVALUATION | $(VENV)/ready
	$(RUN) evaluation.py $(ARGUMENTS) $(EVALUATION)

# Written just before evaluation.json, and drawn anew from it if it is gone.
$(MODELS)/report.html: $(MODELS)/evaluation.json
	@test -e $@ || $(RUN) evaluation.py $(ARGUMENTS) $(EVALUATION)

demo:
	@$(MAKE) --no-print-directory all MODELS=models/demo DATA="--dataset synthetic --image-size 96" \
	  TRAINING="--epochs 10 --batch-size 16 --enlarge 1" PRUNING="--epochs 4 --sparsity 0.6"
	@echo "the report: models/demo/report.html"

test: $(VENV)/ready-to-test
	$(RUN) -m ruff check .
	$(RUN) -m pytest

clean:
	rm -rf $(VENV) models/demo
