"""What several test files share: a small finished run, drawn pictures, scripts as subprocesses."""

import fcntl
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "tensorflow_datasets"
sys.path.insert(0, str(ROOT))

import data_preparation  # noqa: E402 (the package comes first: it sets what TensorFlow reads)
from pipeline import synthetic, timing  # noqa: E402
from pipeline.artifacts import (  # noqa: E402
    ARTIFACTS,
    MODELS,
    artifact_path,
    record_path,
    sha256,
    write_record,
)
from pipeline.packages import keras, layers  # noqa: E402
from pipeline.stages import Stage  # noqa: E402

CLASSES = ("pet", "background", "border")  # of the pets and of the drawn animals
SIZE = 32  # pixels: the smallest image that the network takes
COUNTS = {"train": 40, "test": 8}  # 36 train, 4 validation, 8 test
PRUNING = ("--sparsity", "0.7", "--epochs", "3", "--batch-size", "4")
EPOCHS = ("--epochs", "3", "--taught-epochs", "2")
TRAINING = ("--encoder", "imagenet", *EPOCHS, "--batch-size", "8", "--seed", "7")
STOPPED = "state_after_an_epoch.npz"
PARTS = ("original", "taught")  # of a training, by the names of their states
STOPPED_TAUGHT = ("state_before_taught.npz", "state_after_a_taught_epoch.npz")
HISTORY = """epoch,loss,mean_iou,iou_pet,iou_background,iou_border,learning_rate,images_per_second
1,1.5,0.4,0.4,0.5,0.3,0.001,30
2,1.2,0.5,0.5,0.6,0.4,0.0005,30
"""


# The files that the workers begin with: two that make what others share, in one worker each, two
# that need nothing of it, and then the dearest, so that none of these is left to the end.
FIRST = (
    *("own_network", "accuracy", "channels", "npu", "pruning", "quantization", "conversion"),
    *("training", "stages", "sensitivity", "imitation", "distribution"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {f"test_{name}.py": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def trained(models_dir, name, table=HISTORY):
    """A model's record and the table of its training beside it."""
    path = models_dir / f"{name}_training.csv"
    path.write_text(table)
    artifact_path(models_dir, name).write_text("")
    record = {key: {} for key in ("inputs", "settings", "code", "versions", "metrics")}
    record |= {"sha256": "", "wall_seconds": 1, "beside": {path.name: sha256(path)}}
    write_record(record_path(models_dir, name), record)


def start_script(script: str | Path, *arguments: object, **environment: str) -> subprocess.Popen:
    """A script as its user starts it, with pipes for what it prints."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run_script(
    script: str | Path, *arguments: object, **environment: str
) -> subprocess.CompletedProcess:
    """The same, waited for."""
    process = start_script(script, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_data_set(
    models_dir: Path, size: int = SIZE, seed: int = 7, counts: dict[str, int] = COUNTS
) -> None:
    """A synthetic data set of a few small pictures."""
    where = ["--models-dir", str(models_dir), "--dataset", "synthetic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", counts)
        data_preparation.main([*where, "--image-size", str(size), "--seed", str(seed)])


# --- pictures -----------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "jpeg", **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(width: int, height: int) -> Image.Image:
    """A trimap whose left half is pet and whose right half is background."""
    trimap = np.full((height, width), 2, np.uint8)
    trimap[:, : width // 2] = 1
    return Image.fromarray(trimap)


def photograph(width: int, height: int) -> Image.Image:
    """Left half one colour, right half another: the picture that `halves` is the truth of."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = (220, 40, 60), (30, 90, 200)
    return Image.fromarray(pixels)


def blobs(number: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of large smooth blobs; each class has a colour of its own."""
    coarse = np.random.default_rng(seed).normal(0, 1, (number, 4, 4, 3)).astype(np.float32)
    smooth = [
        [Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC) for plane in planes]
        for planes in coarse.transpose(0, 3, 1, 2)
    ]
    masks = np.stack([np.stack(planes) for planes in smooth]).argmax(axis=1).astype(np.uint8)
    return np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200)], np.uint8)[masks], masks


class PhotoFolder:
    """A folder of photographs, as --dataset folder reads it. Ten plain ones from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for kind in ("images", "masks"):
            (path / kind).mkdir(parents=True)
        for number in range(10):
            self.add_plain(f"plain{number}.jpg", 80, 60 + number)

    def add(self, name: str, image: bytes, mask: bytes) -> None:
        (self.path / "images" / name).write_bytes(image)
        (self.path / "masks" / name).with_suffix(".png").write_bytes(mask)

    def add_plain(self, name: str, width: int, height: int) -> None:
        image = encoded(photograph(width, height), "png" if name.endswith(".png") else "jpeg")
        self.add(name, image, encoded(halves(width, height), "png"))

    def prepare(self, models_dir: Path, *arguments: str) -> None:
        """Makes a data set of 64 x 64 pixels of it."""
        where = ["--models-dir", str(models_dir), "--data-dir", str(self.path)]
        data_preparation.main([*where, "--dataset", "folder", "--image-size", "64", *arguments])


@pytest.fixture
def folder(tmp_path) -> PhotoFolder:
    return PhotoFolder(tmp_path / "photos")


# --- a network ----------------------------------------------------------------------------


def with_statistics(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Running statistics that fit the random weights, as after training."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0  # those of these images, at once
    model(images, training=True)
    return model


def toy_network() -> tuple[keras.Model, np.ndarray]:
    """A network of few operators, of every kind that ours have and more, and calibration images.

    Biases are random: equal ones, as zeros are, would be stored once in a file.
    """
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3))
    biased = {"padding": "same", "bias_initializer": "random_normal"}
    x = layers.Conv2D(32, 3, 2, activation="relu", **biased)(image)
    x = layers.DepthwiseConv2D(3, **biased)(x)
    x = layers.Conv2D(64, 3, activation="relu", **biased)(x)
    x = layers.Conv2DTranspose(32, 2, 2, **biased)(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1, **biased)(x))
    return model, np.random.default_rng(0).random((4, SIZE, SIZE, 3), np.float32)


def that_crashes(content: bytes) -> bytes:
    """An int8 .tflite file with all scales 0, on which LiteRT 2.3 ends in a segmentation fault."""
    from ai_edge_litert import schema_py_generated as schema

    from pipeline.tflite_files import SharingBuilder

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in model.subgraphs[0].tensors:
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.scale = np.zeros_like(tensor.quantization.scale)
    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# --- runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that several test files share: by one worker, while others wait for it.

    The lock is the system's, so that it ends with the worker that holds it; what that one left
    half-made is made anew.
    """
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    shared.mkdir(exist_ok=True)

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path, done = shared / name, shared / f"{name}.done"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(path, ignore_errors=True)
                make(path)
                done.touch()
        return path

    return folder


@pytest.fixture(scope="session")
def small_data(made_once) -> Path:
    """A models folder that holds a synthetic data set only. Not to be written to: `data_copy`."""
    return made_once("small_data", make_data_set)


@pytest.fixture
def data_copy(small_data, tmp_path) -> Path:
    return shutil.copytree(small_data, tmp_path / "models")


@pytest.fixture
def make_stage(data_copy) -> Callable[..., Stage]:
    """A training stage of these arguments on small data, which does nothing by itself."""
    import training

    def make(*arguments):
        return Stage(
            training.__file__, training.parse(["--models-dir", str(data_copy), *arguments])
        )

    return make


@pytest.fixture
def stage(make_stage) -> Stage:
    return make_stage()


@pytest.fixture(scope="session")
def finished_run(small_data, made_once) -> Path:
    """A models folder after stages 1 to 4. Not to be written to: see `run_copy`.

    STOPPED in it is the state that the training would have left if it had been killed after an
    epoch, STOPPED_TAUGHT those that it would have left after the first in which it taught itself.
    """
    import pruning
    import quantization

    def make(models_dir: Path) -> None:
        shutil.copytree(small_data, models_dir)
        # In a process of its own, because Keras numbers the layers of later models of one process.
        training = start_script("training.py", "--models-dir", models_dir, *TRAINING)
        state, taught = (models_dir / f".{part}_training_state.npz" for part in PARTS)
        for path, copies in ((state, (STOPPED,)), (taught, STOPPED_TAUGHT)):
            while not path.exists() and training.poll() is None:
                time.sleep(0.01)
            for source, name in zip((state, taught), copies):
                shutil.copy(source, models_dir / name)
        out, err = training.communicate(timeout=300)
        assert training.returncode == 0, out + err
        pruning.main(["--models-dir", str(models_dir), *PRUNING])
        quantization.main(["--models-dir", str(models_dir), "--calibration-images", "20"])

    return made_once("finished_run", make)


@pytest.fixture
def run_copy(finished_run, tmp_path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "models")


@pytest.fixture(scope="session")
def evaluated_run(finished_run, made_once) -> Path:
    """A models folder after all five stages. Not to be written to.

    Time and memory are made up: to measure takes ten processes (test_own_network.py does it).
    """
    import evaluation

    latency = {"median": 2.0, "p90": 2.5, "after_another": 3.0, "first": 30.0, "runs": 100}

    def make(models_dir: Path) -> None:
        shutil.copytree(finished_run, models_dir)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                timing, "measure_latency", lambda _, names, *__: dict.fromkeys(names, latency)
            )
            patch.setattr(
                timing, "measure_memory", lambda _, names, __: dict.fromkeys(names, 10**7)
            )
            evaluation.main(["--models-dir", str(models_dir)])

    return made_once("evaluated_run", make)


# --- the code, edited -----------------------------------------------------------------------

FAST = ("--learning-rate", "0.01", "--seed", "7")
OWN_EPOCHS = ("--epochs", "2", "--taught-epochs", "0")
OWN_TRAINING = ("--architecture", "tiny", *OWN_EPOCHS, "--batch-size", "8", *FAST)
OWN_NETWORK = '''
def tiny(size: tuple[int, int], classes: int) -> keras.Model:
    """A network of somebody's own: MobileNet's input scaling, a kernel worth pruning."""
    image = layers.Input((*size, 3))
    x = layers.Rescaling(2, -1)(image)
    skip = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(x)
    x = layers.Conv2D(64, 3, 2, padding="same", use_bias=False)(skip)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    return keras.Model(image, layers.Conv2D(classes, 1, name="logits")(x), name="tiny")


NETWORKS = {"tiny": tiny, '''
OWN_CONVERSION = """
    "int16": Variant("int16_quantized_model.tflite", weights="int8", activations="int16"),
    "float16": Variant("""


def copy_code(project: Path) -> Path:
    """A copy of the project's code that may be edited."""
    project.mkdir(exist_ok=True)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, project)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=ignored)
    return project


def edit(path: Path, old: str, new: str) -> None:
    """Changes what reads so in a file; a test whose edit changes nothing proves nothing."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def own_project(small_data, made_once) -> Path:
    """A copy of the code with a network and a conversion of one's own, and all five stages run.

    What each printed: `own_output`. The conversion came after the training.
    """

    def make(project: Path) -> None:
        copy_code(project)
        shutil.copytree(small_data, project / "models")
        edit(project / "pipeline" / "networks.py", "\nNETWORKS = {", OWN_NETWORK)
        for script, code, *arguments in (
            ("training.py", 0, *OWN_TRAINING),
            ("training.py", 0, *OWN_TRAINING, "--if-needed"),
            ("pruning.py", 0, "--epochs", "2", "--batch-size", "4"),
            ("quantization.py", 0, "--calibration-images", "8"),
            ("evaluation.py", 1, "--max-bytes", "1000"),
        ):
            done = run_script(project / script, "--models-dir", project / "models", *arguments)
            assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
            with (project / f"{script}.log").open("a") as log:
                log.write(done.stdout)
            if script == "training.py" and "--if-needed" not in arguments:
                variants = project / "pipeline" / "variants.py"
                edit(variants, '\n    "float16": Variant(', OWN_CONVERSION)

    return made_once("own_project", make)


@pytest.fixture(scope="session")
def own_output(own_project) -> dict[str, str]:
    """What each script printed there."""
    return {path.stem: path.read_text() for path in own_project.glob("*.log")}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED_DATA / "oxford_iiit_pet").exists():
        pytest.skip(f"the real data set is not in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def numbers() -> dict:
    """A small fabricated evaluation: the names, fields and nesting of evaluation.json."""
    rows = []
    for k, name in enumerate(MODELS):
        latency = {
            "median": 2.0 + k,
            "p90": 2.5 + k,
            "after_another": 3.0 + k,
            "first": 30.0,
            "runs": 100,
        }
        row = {
            "name": name,
            "file": ARTIFACTS[name][0],
            "bytes": 4_000_000 - 500_000 * k,
            "gzip_bytes": 3_000_000 - 400_000 * k,
            "parameters": 1_000_000,
            "nonzero_share": 0.4,
            "activation_kb": 768.0 if ARTIFACTS[name][0].endswith(".tflite") else None,
            "multiply_accumulates": 185_391_200,
            "activation_peak": [["block1_expand", 614_400], ["block1_depthwise", 153_600]],
            "latency_ms": latency,
            "latency_ms_all_threads": latency,
            "memory_bytes": 10_000_000 + k,
            "mean_iou": 0.76,
            "mean_iou_interval": [0.7512, 0.7688],
            "iou": {"pet": 0.85, "background": 0.92, "border": 0.51},
            "pixel_accuracy": 0.91,
            "mean_iou_drop": 0.004,
            "mean_iou_drop_interval": [0.001, 0.007],
            "iou_drop": {"pet": 0.001, "background": 0.001, "border": 0.03},
            "stale": None,
        }
        rows.append(row)
    layers = {"block0_project": {"weights": 512, "sparsity": 0.7}}
    return {
        "dataset": {
            "source": "Oxford <Pets>",
            "synthetic": False,
            "image_size": [128, 128],
            "fingerprint": "ab" * 32,
            "split": "test",
            "class_names": list(CLASSES),
            "class_colours": [[242, 142, 43], [58, 72, 98], [255, 255, 255]],
            "class_shares": {"pet": 0.3, "background": 0.58, "border": 0.12},
            "class_pictures": {"pet": 3662, "background": 3669, "border": 3669},
            "ignored_share": 0.0,
            "examples": 3669,
            "constant_class": "background",
            "constant_mean_iou": 0.2,
        },
        "environment": {
            "cpu": "A CPU",
            "cores": 2,
            "threads": 1,
            "delegate": "XNNPACK",
            "system": "Linux",
            "versions": {"numpy": "2"},
        },
        "stages": {
            "pruned": {
                "settings": {"seed": 7, "epochs": 10},
                "wall_seconds": 12.0,
                "sha256": "cd" * 32,
                "metrics": {"layers": layers},
            }
        },
        "seed": 7,
        "models": rows,
    }


@pytest.fixture
def full_disk():
    """No file of this process may be longer than a block."""
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    signal.signal(signal.SIGXFSZ, ignored)
