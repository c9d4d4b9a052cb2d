"""Trials of model files that somebody else made: damaged ones, and such as would run code."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import toy
from files import flipped
from PIL import Image
from toy import ask, copy_of, run
from trials import Campaign, Tally

from pipeline.base import artifacts, console
from pipeline.base.files import sha256
from pipeline.inference import keras_files
from pipeline.prediction import photo_models


def flips(campaign: Campaign) -> Iterator[Tally]:
    """Bits turned over in model files that are opened as somebody else's, and run once."""
    picture = np.zeros((toy.SIZE, toy.SIZE, 3), np.uint8)

    def look(path: Path) -> str:
        """How a user of --model would fare: "refused", "opened", or the fault."""
        try:
            photo_models.open_photo_model(path).predict(picture)
        except console.UserError as error:
            return "refused in one line" if "\n" not in str(error) else "many lines"
        except Exception as error:
            return f"traceback {error!r}"[:300]
        return "opened, and ran"

    for suffix in (".tflite", ".h5"):
        tally = Tally(f"bits turned over in somebody else's {suffix}")
        random = campaign.random("flips" + suffix)
        source = campaign.folder / f"small{suffix}"
        small_models(campaign.folder)
        content, left = source.read_bytes(), len(campaign.times(1000))
        while left > 0 and not campaign.late():
            part = min(50, left)
            paths = []
            for k in range(part):
                paths.append(campaign.folder / f"flipped{k}{suffix}")
                bits = int(random.integers(1, 9)) if k % 2 else 1
                paths[-1].write_bytes(flipped(content, random, bits))
            place = campaign.folder / "looked.json"
            place.unlink(missing_ok=True)

            def look_at_all(paths: list[Path] = paths, place: Path = place) -> None:
                ends: list[str] = []
                for path in paths:
                    place.write_text(json.dumps([*ends, f"crash {path.name}"]), encoding="utf-8")
                    ends.append(look(path))
                place.write_text(json.dumps(ends), encoding="utf-8")
                raise SystemExit(0)

            done = run("evaluation", before=look_at_all)
            ends = json.loads(place.read_text())
            if done.hung:
                ends[-1] = ends[-1].replace("crash", "hang")
            for path, end in zip(paths, ends):
                word = end.split()[0]
                fault = word if word in ("traceback", "crash", "hang") else None
                if fault:
                    shutil.copy(path, campaign.folder / f"kept_{tally.tried}{suffix}")
                tally.add(f"{suffix} {tally.tried}", "a fault" if fault else end, fault, said=end)
            left -= len(ends)
        yield tally


def small_models(folder: Path) -> None:
    """A network of few weights as small.h5 and small.tflite: most of their bytes are structure."""
    if (folder / "small.tflite").exists():
        return

    def write() -> None:
        from pipeline.quantization.convert import convert

        model = toy.network((toy.SIZE, toy.SIZE), 3, 8)
        keras_files.save_model(model, folder / "small.h5")
        calibration = np.random.default_rng(0).random((2, toy.SIZE, toy.SIZE, 3), np.float32)
        (folder / "small.tflite").write_bytes(convert(model, "int8", calibration))
        raise SystemExit(0)

    done = run("evaluation", before=write)
    assert done.code == 0, done.err


def hostile(campaign: Campaign) -> Iterator[Tally]:
    """Models that would run code: Lambda layers, functions of TensorFlow, objects of modules."""
    tally, mark = Tally("models that would run code"), campaign.folder / "code_ran"
    small_models(campaign.folder)
    for kind in ("Lambda", "TFOpLambda", "module", "custom", "initializer"):
        path = campaign.folder / f"hostile_{kind}.h5"
        write = functools.partial(write_lambda if kind == "Lambda" else forge, kind=kind)
        made = run("evaluation", before=functools.partial(write, campaign.folder, path, mark=mark))
        assert path.exists(), made.err
        if "Lambda" in kind:  # without what refuses them they do run it
            run("evaluation", before=functools.partial(open_plainly, path))
            assert mark.exists(), kind
        for script, name in (("evaluation", "a photo"), ("pruning", "original_model.h5")):
            subprocess.run(["rm", "-rf", mark], check=True)
            if script == "evaluation":
                arguments = ("--image", picture(campaign.folder), "--model", path)
            else:  # in the place of ours
                models_dir = copy_of(campaign.old, campaign.folder / "foreign")
                shutil.copy(path, models_dir / name)
                record = artifacts.read_record(models_dir, "original")
                record.rewrite(sha256=sha256(path))
                arguments = ask(script, models_dir)[1:]
            done = run(script, *arguments)
            end = "refused in one line" if done.code == 2 else f"exit {done.code}"
            wrong = "wrong" if done.code == 0 else None
            ran = "code run" if mark.exists() else None
            said = done.out + done.err
            tally.add(f"{kind} as {name}", end, done.fault, ran, wrong, said=said)
    yield tally


def picture(folder: Path) -> Path:
    """A photo."""
    path = folder / "photo.png"
    Image.fromarray(np.zeros((toy.SIZE, toy.SIZE, 3), np.uint8)).save(path)
    return path


def open_plainly(path: Path) -> None:
    """Opens and runs a model as Keras alone does."""
    model = toy.keras.models.load_model(path, compile=False)
    model(np.zeros((1, toy.SIZE, toy.SIZE, 3), np.float32))
    raise SystemExit(0)


def write_lambda(_: Path, path: Path, kind: str, mark: Path) -> None:
    """A model with a Lambda layer, whose code is in the file."""
    name = str(mark)
    image = toy.layers.Input((toy.SIZE, toy.SIZE, 3))
    touch = toy.layers.Lambda(lambda x: (__import__("pathlib").Path(name).touch(), x)[1])
    toy.keras.Model(image, touch(image)).save(path)
    raise SystemExit(0)


def forge(folder: Path, path: Path, kind: str, mark: Path) -> None:
    """A model file whose configuration names something that must not be made or called."""
    shutil.copy(folder / "small.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        first = config["config"]["layers"][1]
        foreign = {"module": "os", "class_name": "system", "config": {"command": f"touch {mark}"}}
        if kind == "module":
            first |= foreign
        elif kind == "custom":
            first |= {"class_name": "Lambda2", "registered_name": "evil>Lambda2"}
        elif kind == "initializer":
            first["config"]["kernel_initializer"] = foreign
        else:  # tf.io.gfile.makedirs(mark), called while the layers are put together
            call = {"name": "call", "function": "io.gfile.makedirs", "dtype": "float32"}
            inbound = [["_CONSTANT_VALUE", -1, str(mark), {}]]
            layer = {"class_name": kind, "name": "call", "config": call, "inbound_nodes": inbound}
            config["config"]["layers"].append(layer)
        file.attrs["model_config"] = json.dumps(config)
    raise SystemExit(0)
