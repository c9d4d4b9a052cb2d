"""Channel pruning: the least important channels are removed, the smaller network computes the
same as the masked one, and a resumed run keeps its choice of channels.
"""

import json

import numpy as np
import pytest

import pruning
from pipeline.base.console import UserError
from pipeline.base.identity import Resumption
from pipeline.base.lazy import keras, layers
from pipeline.base.stage import Stage
from pipeline.data.dataset import load_split
from pipeline.pruning import channel_removal, channels
from pipeline.pruning.dependency_graph import channel_groups
from pipeline.training import networks
from pipeline.training.input_pipeline import epoch_batches
from pipeline.training.losses import Objective
from tests.helpers.runs import CLASSES, SIZE
from tests.helpers.small_network import small_unet
from tests.helpers.toy_networks import with_random_normalisation


def random_network(build):
    """A network of random weights, and of random running statistics and scales."""
    keras.utils.set_random_seed(3)
    return with_random_normalisation(build((SIZE, SIZE), len(CLASSES)))


@pytest.mark.parametrize(
    "build",
    [
        small_unet,
        pytest.param(networks.compact_unet, marks=pytest.mark.slow),
        pytest.param(networks.classic_unet, marks=pytest.mark.slow),
    ],
)
def test_smaller_network_computes_what_the_masked_one_does(build):
    model, masked = random_network(build), random_network(build)
    random = np.random.default_rng(4)
    groups = channel_groups(model)
    kept = [
        np.sort(random.choice(group.channels, group.channels // 2, replace=False))
        for group in groups
    ]
    small = channel_removal.remove_channels(model, groups, kept)
    images = random.random((2, SIZE, SIZE, 3), np.float32)
    unmasked = model(images).numpy()
    channel_removal.mask_channels(masked, groups, kept)
    expected = masked(images).numpy()
    assert np.abs(unmasked - expected).max() > 0.01 * np.abs(unmasked).max(), "masks have an effect"
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(small(images).numpy(), expected, atol=tolerance)
    assert small.count_params() < 0.4 * model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]


@pytest.mark.slow
def test_channels_that_nothing_depends_on_are_removed_first(small_data):
    """Half of the channels of a group are read with weight zero."""
    model = random_network(small_unet)
    groups = channel_groups(model)
    (index,) = (k for k, group in enumerate(groups) if group.producers[0] == "block1_expand")
    unread = np.sort(np.random.default_rng(0).choice(160, 80, replace=False))
    kernel = model.get_layer("block1_project").kernel
    values = kernel.numpy()
    values[:, :, unread] = 0
    kernel.assign(values)
    total = sum(group.channels for group in groups)
    batches = epoch_batches(*load_split(small_data, "train"), 8, 7, 0).repeat()
    kept = channels.choose_channels(model, groups, 80 / total, batches, Objective())
    np.testing.assert_array_equal(kept[index], np.setdiff1d(np.arange(160), unread))
    assert sum(map(len, kept)) == total - 80


# --- the plan -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classic():
    return networks.classic_unet((SIZE, SIZE), len(CLASSES))


@pytest.fixture
def plan(data_copy, classic, monkeypatch):
    """Plans channels of the classic network; the choice itself is replaced by a quick one.

    Returns the channels to keep, and how many choices were made so far.
    """
    groups, choices = channel_groups(classic), []

    def choose(model, groups, share, batches, objective):
        assert next(iter(batches))[0].shape == (4, SIZE, SIZE, 3)
        choices.append(share)
        return [np.arange(8 * len(choices), group.channels) for group in groups]

    monkeypatch.setattr(channels, "choose_channels", choose)

    def make_plan(*flags, share=0.3):
        flags = ["--models-dir", str(data_copy), "--channels", str(share), *flags]
        stage = Stage.begin(pruning.__file__, pruning.parse(flags))
        kept, resumption = channels.planned_channels(stage, classic, groups, share, 4, Objective())
        assert resumption == Resumption()
        return [rows.tolist() for rows in kept], len(choices)

    return make_plan


def test_resumed_run_takes_the_channels_of_the_stopped_one_and_a_new_one_chooses(plan):
    first, choices = plan()
    assert choices == 1
    assert plan("--resume") == (first, 1)
    second, choices = plan()
    assert second != first and choices == 2


def changed(**entries):
    """Damage that replaces entries of the plan."""
    return lambda text: json.dumps(json.loads(text) | entries).encode()


DAMAGES = {
    "cut short": lambda text: text[: len(text) // 2].encode(),
    "empty": lambda _: b"",
    "no UTF-8": lambda text: b"\xff" + text.encode(),
    "nested too deeply": lambda _: b"[" * 100_000,
    "a list": lambda _: b"[1, 2]",
    "no entries": lambda _: b"{}",
    "channels are a number": changed(kept=3),
    "of fewer groups": changed(kept=[[0, 1, 2]]),
    "a group is a number": changed(kept=[1] * 12),
    "a channel is text": changed(kept=[["0"]] * 12),
    "a channel is a fraction": changed(kept=[[0.5]] * 12),
    "a channel twice": changed(kept=[[1, 1]] * 12),
    "no such channel": changed(kept=[[0, 4096]] * 12),
    "a negative channel": changed(kept=[[-1, 0]] * 12),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_plan_is_one_line_and_a_new_choice(plan, data_copy, capsys, damage):
    first, _ = plan()
    assert len(first) == 12
    path = channels.plan_path(data_copy)
    path.write_bytes(DAMAGES[damage](path.read_text(encoding="utf-8")))
    second, choices = plan("--resume")
    assert second != first and choices == 2
    assert capsys.readouterr().out.splitlines() == [f"{path} is damaged; beginning anew"]
    assert plan("--resume") == (second, 2), "the new choice is in the place of the damaged one"


def test_plan_of_another_run_is_one_line_and_a_new_choice(plan, data_copy, capsys):
    first, _ = plan("--epochs", "3")
    second, choices = plan("--epochs", "4", "--resume")
    assert second != first and choices == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "the unfinished run was another one (--epochs is 4, was 3); beginning anew"
    content = json.loads(channels.plan_path(data_copy).read_text(encoding="utf-8"))
    assert content["kept"] == second
    assert plan("--epochs", "3", "--resume") == (first, 2), "the weights of that run need it"
    assert plan("--epochs", "4", "--resume") == (second, 2)


def test_edits_accepted_since_the_plan_was_made_are_passed_on(plan, data_copy, classic):
    first, _ = plan()
    path = channels.plan_path(data_copy)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["identity"]["code"]["pipeline/pruning/channels.py"] = "0"
    path.write_text(json.dumps(content), encoding="utf-8")
    flags = ["--models-dir", str(data_copy), "--channels", "0.3", "--resume", "--accept-edits"]
    stage = Stage.begin(pruning.__file__, pruning.parse(flags))
    kept, resumption = channels.planned_channels(
        stage, classic, channel_groups(classic), 0.3, 4, Objective()
    )
    assert [rows.tolist() for rows in kept] == first
    assert resumption == Resumption(("pipeline/pruning/channels.py was edited",))
    assert plan("--resume") == (first, 1), "after a second stop, the edit is no reason any more"


def test_error_of_our_own_is_not_taken_for_damage(plan, data_copy, monkeypatch):
    """It would throw the channels away that a fine-tuning began with."""
    plan()
    path = channels.plan_path(data_copy)
    before = path.read_bytes()

    def broken(*_):
        raise TypeError("an error in a program")

    monkeypatch.setattr(channels, "parse_kept", broken)
    with pytest.raises(TypeError, match="an error in a program"):
        plan("--resume")
    assert path.read_bytes() == before


def test_largest_share_leaves_one_block_of_each_kind(classic):
    image = layers.Input((SIZE, SIZE, 3))
    x = image
    for filters in (8, 9, 24):  # of which 0, 8 and 16 can be removed
        x = layers.Conv2D(filters, 1)(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x))
    assert channels.removable_share(channel_groups(model)) == pytest.approx(24 / 41)
    assert channels.removable_share([]) == 0
    assert channels.removable_share(channel_groups(classic)) > 0.9  # the largest --channels


def test_largest_share_is_removed_if_asked_for(small_data):
    keras.utils.set_random_seed(0)
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(24, 3, padding="same", activation="relu")(image)
    x = layers.Conv2D(41, 3, padding="same", activation="relu")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x))
    groups = channel_groups(model)
    batches = epoch_batches(*load_split(small_data, "train"), 8, 7, 0).repeat()
    kept = channels.choose_channels(
        model, groups, channels.removable_share(groups), batches, Objective()
    )
    assert [len(rows) for rows in kept] == [8, 1]


def test_more_than_can_be_removed_is_refused_before_channels_are_chosen(data_copy, monkeypatch):
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(9, 1)(image)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x), name="narrow")
    monkeypatch.setattr(channels, "choose_channels", lambda *_: pytest.fail("chose channels"))
    stage = Stage.begin(pruning.__file__, pruning.parse(["--models-dir", str(data_copy)]))
    words = r"at most 89% of the channels of narrow can go.*use --channels 0\.88 or less"
    with pytest.raises(UserError, match=words):
        channels.planned_channels(stage, model, channel_groups(model), 0.9, 4, Objective())


def test_layer_that_ties_all_channels_is_named_where_none_can_be_removed(data_copy):
    """It was "use --channels 0.0 or less"."""
    image = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(64, 3, padding="same", name="first")(image)
    x = layers.LayerNormalization(name="over_channels")(x)
    model = keras.Model(image, layers.Conv2D(len(CLASSES), 1)(x), name="tied")
    stage = Stage.begin(pruning.__file__, pruning.parse(["--models-dir", str(data_copy)]))
    words = r"no channels of tied can go.*\(over_channels ties those of first\); prune without"
    with pytest.raises(UserError, match=words):
        channels.planned_channels(stage, model, channel_groups(model), 0.3, 4, Objective())


def test_smaller_network_with_other_logits_is_refused():
    image = layers.Input((SIZE, SIZE, 3))
    layer = layers.Conv2D(len(CLASSES), 1)
    model = keras.Model(image, layer(image))
    other = keras.models.clone_model(model)
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    other.set_weights(model.get_weights())
    assert channel_removal.check_smaller(other, model, images) == 0
    layer.kernel.assign(1.001 * layer.kernel)
    with pytest.raises(UserError, match=r"differs from the masked one by 1\.0e-03 of the largest"):
        channel_removal.check_smaller(other, model, images)
