"""The machinery of the five stages, one noun a module, from the ground floor up.

Scripts import from here and never from each other; a module imports only from those above it
in this list (tests/test_package.py checks both).

    variants       the table of .tflite files: one entry is all that a new conversion needs
    console        faults in one line, progress, quiet, Ctrl-C
    photographs    the one reader of photographs, and how they come to a network's size
    packages       TensorFlow and the other slow packages, loaded when first used
    artifacts      paths, atomic files, records
    flags          the command line that all scripts share
    fingerprints   what the code of a stage does, whatever its comments and layout
    processes      cores, which process writes, one at a time in a folder, one of its own
    stages         what a stage was asked, whether it must run again and why, its artifacts
    classes        what the values of a mask mean: names, colours, pixels of no class
    dataset        the prepared data set: shards written once, memory-mapped after
    listing        which picture each prepared example was
    masks          what the pixels of a mask file say: numbers, palettes, colours
    labels         which class each value in masks is, as source and user say
    examples       one picture and its mask, decoded and fitted; what a source of many is
    audit          all masks looked at before anything is written: values, faults, meaning
    selection      which examples are used, and for which split
    synthetic      drawn animals, a data set without a download
    folders        folders of pictures and masks, and the layout of Pascal VOC
    coco           COCO JSON, drawn as masks
    ultralytics    data.yaml of Ultralytics' semantic data sets
    tfds_sets      Oxford-IIIT Pet and other sets of TensorFlow Datasets
    sources        what --data means, and whether it changed
    pictures       photos with their masks: overlays, legends, the picture of a data set
    charts         curves, what breaks first, trade-offs, bars
    metrics        pixel counts, IoU, bootstrap
    keras_models   .h5 files: saved, loaded, run
    networks       the U-Nets, and the place for a network of one's own
    imagenet       pretrained weights of the encoder, read without torch
    batches        augmentation and the order of examples
    losses         what training minimises
    optimizers     AdamW, its schedule, its moving average
    devices        what a training runs on, and in which precision
    training_states what a training needs to go on after a kill
    fitting        the training loop: steps, progress, what is validated and kept
    zeros          unstructured pruning: which kernels, how many zeros
    channel_groups which channels of a network can only go together
    channels       structured pruning: which channels go, the network that is left
    network_checks what is said of a network before hours are spent on it
    rounding       int8 kernels that lose little
    ranges         activation ranges for int8 that lose little
    tflite_files   .tflite files as tables: equal vectors once, weights counted
    litert         .tflite files run: interpreters, predictions, operators
    recipes        single operators in int8, dynamic range where it pays
    conversion     Keras to .tflite, in every variant: the one conversion
    file_checks    what a .tflite file must hold before it replaces the old one
    metadata       TFLite metadata, the part of a contract that runtimes read
    contract       what goes into a .tflite file and comes out, inside the file
    memory_plan    what a .tflite file asks of a device: memory for activations, arithmetic
    timing         latency and memory
    run_on_device  the program that is handed over with a file; imports nothing of this package
    export         a folder to hand over: file, contract, test picture, C source, program
    npu            what an NPU would take, as its compiler estimates
    sensitivity    what int8 costs operator by operator
    imitation      fine-tuning for int8
    profiles       where the time goes, operator by operator
    photos         pictures of one's own, drawn over with what a model sees
    accuracy       every model over the test split
    limits         what a file must keep to, and whether it does
    sentences      what the numbers mean, in words
    tables         the numbers as text
    gallery        test photos: the worst and others
    report         the numbers as a page
"""

import os
import sys
from typing import Any

INTERRUPTED = "interrupted; every file is the old one or the new one"


def _report(kind: type, error: BaseException, trace: Any) -> None:
    """What is said of Ctrl-C while a script imports its modules: one line, see console.py."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"{os.path.basename(sys.argv[0])}: {INTERRUPTED}", file=sys.stderr, flush=True)
    os._exit(130)


# Two things happen at import.
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _report
# TensorFlow reads these once, when it is loaded, and
# TFMOT works with Keras 2 only; level 3 hides C++ lines that look like faults and are none
# ("failed call to cuInit" on a machine without a GPU). Python exceptions still come through.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
