"""`--start-from`: which layers take the weights of an earlier model, and what the record holds."""

import shlex
import shutil

import numpy as np
import pytest

import training
from pipeline.base.artifacts import artifact_path, read_record, stale_reason
from pipeline.base.console import UserError
from pipeline.base.files import sha256
from pipeline.base.stage import Stage
from pipeline.inference.keras_files import load_model
from pipeline.training import earlier_model
from tests.helpers.runs import TRAINING
from tests.helpers.small_network import small_network, small_unet
from tests.helpers.toy_networks import saved_as, toy_network


def randomly_weighted(model, seed):
    random = np.random.default_rng(seed)
    model.set_weights([random.random(value.shape) for value in model.get_weights()])
    return model


def test_layers_of_equal_name_and_shape_are_loaded_and_the_others_stay(tmp_path, capsys):
    """Another image size and other classes: all but the logits."""
    path = tmp_path / "earlier.h5"
    earlier = randomly_weighted(small_unet((32, 64), 3), 1)
    saved_as(earlier, path)
    model = randomly_weighted(small_unet((64, 32), 5), 2)
    head = model.get_layer("logits_block").get_weights()
    table = earlier_model.load(model, path)["started_from"]
    assert table["anew"] == ["logits_block"]
    assert set(table["loaded"]) == {
        layer.name for layer in model.layers if layer.weights and layer.name != "logits_block"
    }
    for name in table["loaded"]:
        pairs = zip(model.get_layer(name).get_weights(), earlier.get_layer(name).get_weights())
        assert all((now == then).all() for now, then in pairs)
    assert all((a == b).all() for a, b in zip(model.get_layer("logits_block").get_weights(), head))
    printed = f"{len(table['loaded'])} layers begin with the weights of {path}, 1 anew:"
    assert f"{printed} logits_block" in capsys.readouterr().out


def test_model_of_which_no_layer_fits_is_refused(tmp_path):
    path = saved_as(toy_network()[0], tmp_path / "other.h5")
    with pytest.raises(UserError, match=r"other\.h5: no layer of small_unet has the name"):
        earlier_model.load(small_unet((32, 32), 3), path)


def test_file_that_is_no_model_is_refused(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no HDF5")
    with pytest.raises(UserError, match=r"text\.h5 cannot be read as a Keras model"):
        earlier_model.load(small_unet((32, 32), 3), path)


def stage_of(models_dir, *argv):
    return earlier_model.with_named_models(
        Stage.begin(training.__file__, training.parse(["--models-dir", str(models_dir), *argv]))
    )


def test_content_of_the_earlier_model_counts_and_its_path_does_not(tmp_path):
    paths = [tmp_path / name for name in ("a.h5", "b.h5", "other.h5")]
    for path, content in zip(paths, ("one", "one", "two")):
        path.write_text(content)
    first, moved, other = (stage_of(tmp_path, "--start-from", str(path)) for path in paths)
    assert first.is_this_run(moved.identity.as_dict())
    (reason,) = first.differences(other.identity.as_dict())
    assert reason.text == "the model that --start-from names changed"
    (reason,) = stage_of(tmp_path).differences(first.identity.as_dict())
    assert reason.text == "the model that --start-from names is no longer read"


def test_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"it is a folder, not a file"):
        stage_of(tmp_path, "--start-from", str(tmp_path))
    with pytest.raises(UserError, match=r"--start-from gone\.h5: it is missing"):
        stage_of(tmp_path, "--start-from", "gone.h5")


@pytest.mark.parametrize("name", ["original", "pruned"])
def test_file_that_the_stages_replace_is_refused_with_commands_that_work(tmp_path, name):
    models = tmp_path / "my models"
    models.mkdir()
    path = artifact_path(models, name)
    path.write_text("weights")
    with pytest.raises(UserError, match="the stages replace that file") as refusal:
        stage_of(models, "--epochs", "7", "--start-from", str(path))
    copy, _, again = str(refusal.value).partition("name it: ")[2].partition(" && ")
    program, *operands = shlex.split(copy)
    assert program == "cp"
    shutil.copy(*operands)
    arguments = training.parse(shlex.split(again)[2:])
    assert (arguments.models_dir, arguments.epochs) == (models, 7)
    assert arguments.start_from.read_text() == "weights" and arguments.start_from != path


@pytest.mark.slow
def test_training_from_an_earlier_model_is_recorded_and_later_stages_accept_it(
    finished_run, data_copy, tmp_path
):
    """With a learning rate that changes nothing, what is written is the earlier model."""
    path = shutil.copy(artifact_path(finished_run, "original"), tmp_path / "earlier.h5")
    with small_network():
        training.main(
            ["--models-dir", str(data_copy), *TRAINING, "--learning-rate", "1e-12"]
            + ["--start-from", str(path)]
        )
    record = read_record(data_copy, "original")
    assert record["inputs"][earlier_model.INPUTS["start_from"]] == sha256(path)
    assert record["started_from"]["anew"] == []
    assert stale_reason(data_copy, "original") is None
    now, then = (load_model(folder, "original") for folder in (data_copy, finished_run))
    kernels = [k for k, weight in enumerate(now.weights) if "kernel" in weight.name]
    assert kernels and all(
        np.allclose(now.get_weights()[k], then.get_weights()[k], atol=1e-6) for k in kernels
    )
