"""The slow packages, each loaded when something of it is first asked for, and without a word.

So `--help`, a mistyped flag and "nothing to do" are answered in a fraction of a second, and
what TensorFlow prints at its start (CPU features, missing GPU drivers) stays off the terminal.

    from pipeline.base.lazy import keras, layers, tf
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.console import silenced


class _Later(types.ModuleType):
    """Stands in for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        # Asked of every object by tools that look at all names of a module: pytest's collection.
        if name.startswith("__") or name == "_mock_name":
            raise AttributeError(name)
        if "_loaded" not in self.__dict__:
            with silenced():
                if self.__name__ in ON_TENSORFLOW:
                    _start_tensorflow()
                if self.__name__.startswith("matplotlib"):
                    _start_matplotlib()
                self.__dict__["_loaded"] = importlib.import_module(self.__name__)
        return getattr(self._loaded, name)


@functools.cache
def _start_tensorflow() -> None:
    """Lets TensorFlow look for devices now, while it is silenced, and not at its first tensor."""
    tensorflow = importlib.import_module("tensorflow")
    tensorflow.config.list_physical_devices()
    tensorflow.get_logger().setLevel("ERROR")  # a model without an optimizer has no metrics: yes


def _start_matplotlib() -> None:
    """Imports matplotlib, whatever its settings in the environment and in the user's files are.

    Jupyter and Colab set MPLBACKEND to a backend that this Python may lack, a matplotlibrc may be
    unreadable, and a user without a home has no folder for the list of fonts: each of these makes
    the import fail. The charts need none of them (see pipeline/report/chart_style.py).
    """
    if "matplotlib" in sys.modules:  # a notebook imported it: its settings stay as they are
        return
    if not os.environ.get("MPLCONFIGDIR"):
        try:
            Path.home()
        except RuntimeError:  # no HOME, and no entry in the user database
            folder = os.environ["MPLCONFIGDIR"] = tempfile.mkdtemp(prefix="matplotlib-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        try:
            package = importlib.import_module("matplotlib")
        except ImportError:
            raise
        except Exception:  # what a matplotlibrc that cannot be read raises depends on its fault
            for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
                del sys.modules[name]
            with _without_matplotlibrc():
                package = importlib.import_module("matplotlib")
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(ValueError):  # for plots that a notebook makes later
            package.rcParams["backend"] = backend


@contextlib.contextmanager
def _without_matplotlibrc() -> Iterator[None]:
    """Lets matplotlib find its own default settings in place of the user's files.

    It looks in the working directory before it reads MATPLOTLIBRC.
    """
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        raise ImportError("matplotlib is not installed")
    defaults = Path(package.origin).with_name("mpl-data") / "matplotlibrc"
    variable, directory = os.environ.get("MATPLOTLIBRC"), None
    os.environ["MATPLOTLIBRC"] = str(defaults)
    if Path("matplotlibrc").exists():
        directory = Path.cwd()
        os.chdir(defaults.parent)
    try:
        yield
    finally:
        if directory:
            os.chdir(directory)
        del os.environ["MATPLOTLIBRC"]
        if variable is not None:
            os.environ["MATPLOTLIBRC"] = variable


if TYPE_CHECKING:  # the names as type checkers know them
    import jinja2
    import keras as keras3
    import matplotlib
    import tensorflow as tf
    import tensorflow_datasets as tfds
    import tensorflow_model_optimization as tfmot
    import tf_keras as keras
    import yaml
    from litert_quantizer import algorithm_manager as quantizer_algorithms
    from litert_quantizer import qtyping as quantizer_types
    from litert_quantizer import quantizer
    from matplotlib import figure as matplotlib_figure
    from matplotlib import font_manager as matplotlib_fonts
    from matplotlib import ft2font as matplotlib_ft2font
    from matplotlib import patches as matplotlib_patches
    from matplotlib import text as matplotlib_text
    from pycocotools import mask as coco_masks
    from scipy import ndimage
    from tensorflow.lite.python import convert as tf_convert
    from tf_keras import layers
else:
    tf = _Later("tensorflow")
    tf_convert = _Later("tensorflow.lite.python.convert")
    keras = _Later("tf_keras")
    layers = _Later("tf_keras.layers")
    keras3 = _Later("keras")
    tfmot = _Later("tensorflow_model_optimization")
    tfds = _Later("tensorflow_datasets")
    quantizer = _Later("litert_quantizer.quantizer")
    quantizer_types = _Later("litert_quantizer.qtyping")
    quantizer_algorithms = _Later("litert_quantizer.algorithm_manager")
    matplotlib = _Later("matplotlib")
    matplotlib_figure = _Later("matplotlib.figure")
    matplotlib_fonts = _Later("matplotlib.font_manager")
    matplotlib_ft2font = _Later("matplotlib.ft2font")
    matplotlib_patches = _Later("matplotlib.patches")
    matplotlib_text = _Later("matplotlib.text")
    jinja2 = _Later("jinja2")
    coco_masks = _Later("pycocotools.mask")
    yaml = _Later("yaml")
    ndimage = _Later("scipy.ndimage")

ON_TENSORFLOW = {
    module.__name__ for module in (tf, tf_convert, keras, layers, keras3, tfmot, tfds, quantizer)
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
