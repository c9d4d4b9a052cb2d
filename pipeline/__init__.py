"""What the five scripts share: to train a segmentation network, shrink it, measure what that cost.

Scripts import from this package and never from each other. A folder imports from itself and from
the folders above it in this list.

    base            console, command line, records, locks, which edits rerun a stage
    data            the data set: pictures and masks read, audited, split, written, memory-mapped
    data/formats    one module per format that pictures and masks come in
    inference       Keras and .tflite files opened and run, their contract; pixel counts and IoU
    training        networks, loss, optimizer, augmentation, training loop, checkpoints
    pruning         magnitude pruning; channel pruning and its dependency graph
    quantization    Keras to .tflite: conversion, calibration, GPTQ, mixed precision, QAT, checks
    evaluation      accuracy with intervals, latency, memory, plan of the activations
    report          charts, tables, findings, overlays, the report page, limits (gates)
    prediction      photos of one's own, segmented with a finished model
    checks          a network before training; the operators of a finished file; a device's budget
    deploy          the handover folder and the program in it; NPU estimates

Beside the folders, `variants` is the table of .tflite files, where a new conversion has its entry,
and `start_check` says what a Python lacks to run this.

The import of this package runs that check and sets two environment variables, nothing else.
"""

from __future__ import annotations

import os

from pipeline.start_check import refuse_unusable_python

# What happens at import.
refuse_unusable_python()
# TensorFlow reads these once, when it is loaded. TFMOT works with Keras 2 only. Level 3 hides lines
# of C++ that look like faults and are none ("failed call to cuInit" on a machine without a GPU);
# Python exceptions still come through.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
