"""The slow packages, each loaded when something of it is first asked for, and without a word.

So `--help`, a mistyped flag and "nothing to do" are answered in a fraction of a second, and
what TensorFlow prints at its start (CPU features, missing GPU drivers) stays off the terminal.

    from pipeline.packages import keras, layers, tf
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import sys
import types
from typing import Any

from pipeline.base.console import silenced


class _Later(types.ModuleType):
    """Stands in for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools that look at every module do not load this one
            raise AttributeError(name)
        if "_loaded" not in self.__dict__:
            with silenced():
                if self.__name__ in ON_TENSORFLOW:
                    _start_tensorflow()
                self.__dict__["_loaded"] = importlib.import_module(self.__name__)
        return getattr(self._loaded, name)


@functools.cache
def _start_tensorflow() -> None:
    """Lets TensorFlow look for devices now, while it is silenced, and not at its first tensor."""
    tensorflow = importlib.import_module("tensorflow")
    tensorflow.config.list_physical_devices()
    tensorflow.get_logger().setLevel("ERROR")  # a model without an optimizer has no metrics: yes


tf = _Later("tensorflow")
tf_convert = _Later("tensorflow.lite.python.convert")
keras = _Later("tf_keras")
layers = _Later("tf_keras.layers")
tfmot = _Later("tensorflow_model_optimization")
tfds = _Later("tensorflow_datasets")
quantizer = _Later("litert_quantizer.quantizer")
quantizer_types = _Later("litert_quantizer.qtyping")
quantizer_algorithms = _Later("litert_quantizer.algorithm_manager")
matplotlib = _Later("matplotlib")
matplotlib_figure = _Later("matplotlib.figure")
matplotlib_patches = _Later("matplotlib.patches")
jinja2 = _Later("jinja2")
coco_masks = _Later("pycocotools.mask")
yaml = _Later("yaml")

ON_TENSORFLOW = {
    module.__name__ for module in (tf, tf_convert, keras, layers, tfmot, tfds, quantizer)
}

# Which distribution a name comes from, of those that decide what is in an artifact.
DISTRIBUTIONS = {
    "tf": "tensorflow",
    "tf_convert": "tensorflow",
    "keras": "tf-keras",
    "layers": "tf-keras",
    "tfmot": "tensorflow-model-optimization",
    "tfds": "tensorflow-datasets",
    "ai_edge_litert": "ai-edge-litert",
    "quantizer": "litert-quantizer",
    "numpy": "numpy",
    "PIL": "pillow",
    "coco_masks": "pycocotools",
    "yaml": "PyYAML",
}


def versions(names: set[str] | None = None) -> dict[str, str]:
    """Versions of Python and of the distributions behind these names (all by default)."""
    chosen = sorted({DISTRIBUTIONS[name] for name in names or DISTRIBUTIONS})
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: importlib.metadata.version(name) for name in chosen}}
