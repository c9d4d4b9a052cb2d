"""An edit reruns exactly the stages whose artifacts it can change: by fingerprints, in process."""

from __future__ import annotations

import pytest

from pipeline.base import fingerprints
from tests.helpers.runs import ROOT, copy_code, edit

STAGES = ("data_preparation", "training", "pruning", "quantization", "evaluation")
ALL, NONE = STAGES[0], None

# By kind of edit: the first stage that it reruns (the later ones follow, as its artifact is their
# input), "report" if it only draws the page again, NONE if it reruns nothing; and the files.
# The data set is read with pipeline/data/formats/tfds.py.
KINDS = {
    "how a picture is read or resized": (
        *(ALL, "data/image_reader.py", "data/decoding.py", "data/photographs.py"),
        *("data/photo_audit.py", "data/orientation.py", "data/foreign_files.py"),
        *("data/image_size.py", "data/fitting.py", "data/pages.py", "data/text_files.py"),
        "data/folder_flags.py",
    ),
    "what a mask means": (
        ALL,
        *("data/masks.py", "data/array_masks.py", "data/mask_causes.py"),
        "data/palettes.py",
        "data/lossy.py",
        "data/inspection.py",
        "data/label_mapping.py",
        "data/label_flags.py",
        "data/classes.py",
    ),
    "the split": (
        ALL,
        "data/split_selection.py",
        "data/split_rules.py",
        "data/audit.py",
        "data/sample_source.py",
    ),
    "how the data set is written": (ALL, "data/dataset_writer.py"),
    "what is noted of the data set": (
        *(ALL, "data/same_pictures.py", "data/lost_classes.py", "data/odd_pictures.py"),
    ),
    "the data format in use": (ALL, "data/formats/tfds.py", "data/formats/registry.py"),
    "another data format": (
        *(NONE, "data/formats/coco.py", "data/formats/synthetic.py"),
        *("data/formats/folder_layout.py", "data/formats/ultralytics.py"),
        *("data/formats/json_kinds.py", "data/formats/pairing.py", "data/formats/polygons.py"),
        *("data/formats/yolo_polygons.py", "data/formats/labelme.py", "data/formats/endings.py"),
        *("data/formats/cityscapes.py", "data/formats/oxford_trimaps.py"),
        *("data/formats/folder_roles.py", "data/formats/folder_search.py"),
        *("data/formats/class_files.py", "data/formats/picture_files.py"),
        *("data/formats/unknown_folders.py", "data/formats/drawn_masks.py"),
    ),
    "network": (
        *("training", "training/networks.py", "training/building.py", "training/rebuilding.py"),
        *("training/views.py", "training/imagenet.py", "training/earlier_model.py"),
        *("training/taken_model.py", "inference/keras3_files.py", "inference/conventions.py"),
    ),
    "loss": ("training", "training/losses.py"),
    "augmentation": ("training", "training/input_pipeline.py", "training/mirroring.py"),
    "optimizer": ("training", "training/optimizers.py"),
    "training loop": (
        *("training", "training/loop.py", "training/checkpoints.py", "training/epoch_rows.py"),
        *("training/random_layers.py", "training/workers.py", "data/npz.py"),
        "training/duration.py",
    ),
    "the mean IoU that picks the best epoch": (
        *("training", "inference/iou.py", "inference/keras_files.py"),
    ),
    "magnitude pruning": ("pruning", "pruning/magnitude.py"),
    "channel pruning": (
        *("pruning", "pruning/channels.py", "pruning/channel_removal.py"),
        *("pruning/channel_flow.py", "pruning/channel_sets.py", "pruning/dependency_graph.py"),
    ),
    "conversion": ("quantization", "quantization/convert.py", "variants.py"),
    "files of either kind opened": ("quantization", "inference/models.py"),
    "calibration and GPTQ": ("quantization", "quantization/calibration.py", "quantization/gptq.py"),
    "private names of TensorFlow": ("quantization", "quantization/tensorflow_private.py"),
    "QAT, selective int8": (
        *("quantization", "quantization/qat.py", "quantization/selective.py"),
        *("quantization/sensitivity.py", "quantization/verify.py"),
    ),
    "a metric that no training reads": (
        *(
            "evaluation",
            "evaluation/accuracy.py",
            "evaluation/pixel_measures.py",
            "evaluation/boundary.py",
            "evaluation/bootstrap.py",
        ),
        *("evaluation/comparison.py", "evaluation/finished.py", "evaluation/file_facts.py"),
    ),
    "latency and memory": (
        *("evaluation", "evaluation/latency.py", "evaluation/memory.py"),
        "evaluation/processor.py",
        "evaluation/memory_plan.py",
    ),
    "charts, findings, overlays, the page and its template": (
        *(
            "report",
            "report/charts.py",
            "report/chart_style.py",
            "report/findings.py",
            "report/recommendation.py",
            "report/class_tables.py",
            "report/data_warnings.py",
            "report/overlays.py",
        ),
        *("report/gallery.py", "report/page.py", "report/page.html", "report/changes.py"),
        "report/other_models_table.py",
    ),
    "tables, gates": (
        NONE,
        "report/tables.py",
        "report/dataset_summary.py",
        "report/gates.py",
        "report/sidecars.py",
        "report/report_file.py",
        "report/dataset_picture.py",
        "report/training_pictures.py",
    ),
    "console, command line, locks, records": (
        *(
            NONE,
            "base/console.py",
            "base/cli.py",
            "base/commands.py",
            "base/ownership.py",
            "base/flag_rules.py",
            "base/unfinished.py",
            "base/system.py",
            "base/artifacts.py",
            "base/files.py",
            "base/text_table.py",
        ),
        *(
            "base/stage.py",
            "base/identity.py",
            "base/fingerprints.py",
            "base/lazy.py",
            "base/archives.py",
            "start_check.py",
        ),
    ),
    "prediction, handover, NPU estimate, operator profile": (
        *(
            NONE,
            "prediction/predict.py",
            "prediction/pretrained.py",
            "prediction/segmenter.py",
            "prediction/photo_files.py",
            "prediction/photo_drawing.py",
            "prediction/legends.py",
            "prediction/area_table.py",
            "deploy/handover.py",
            "deploy/run_on_device.py",
        ),
        *("data/marked_pictures.py", "data/class_maps.py"),
        *("prediction/file_kinds.py", "prediction/photo_models.py", "prediction/photo_rules.py"),
        "prediction/tflite_description.py",
        *("deploy/ethos_u.py", "checks/op_profile.py"),
    ),
    "models of others": (
        *(NONE, "checks/other_models.py", "prediction/foreign_model.py"),
        "prediction/input_values.py",
    ),
    "preflight checks of a network": (NONE, "checks/preflight.py", "checks/rehearsal.py"),
    "the plot of sensitivity to pruning": (NONE, "checks/pruning_sensitivity.py"),
    "the search for a device's budget": (
        *(NONE, "checks/budget.py", "checks/int8_needs.py", "checks/smallest_number.py"),
    ),
}
EDITS = [(kind, file, first) for kind, (first, *files) in KINDS.items() for file in files]


SOURCES = {}  # by file and content, what `fingerprints.read` gives: each is parsed once


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the code that may be edited."""
    plain = fingerprints.read.__wrapped__
    root = copy_code(tmp_path / "project")

    def read(path):
        key = path.relative_to(root), path.read_bytes()
        if key not in SOURCES:
            SOURCES[key] = plain(path)
        return SOURCES[key]

    monkeypatch.setattr(fingerprints, "read", read)
    return root


def codes(project, formats=("tfds",)):
    """Fingerprints by file, for each stage and the report."""
    code = {name: fingerprints.of_stage(project / f"{name}.py", formats)[0] for name in STAGES}
    page = project / "pipeline" / "report" / "page.py"
    return code | {"report": fingerprints.of_stage(page, counted=("report",))[0]}


def changed(before, after):
    """The stages whose code differs, and the files that they name as edited."""
    stages = {name for name in before if before[name] != after[name]}
    files = {
        file
        for name in stages
        for file in before[name].keys() | after[name].keys()
        if before[name].get(file) != after[name].get(file)
    }
    return stages, files


@pytest.fixture
def untouched(project):
    """The code of every stage before the edit."""
    return codes(project)


@pytest.mark.parametrize(("kind", "file", "first"), EDITS, ids=[file for _, file, _ in EDITS])
def test_edit_reruns_from_the_first_stage_that_it_can_change(project, untouched, kind, file, first):
    with (project / "pipeline" / file).open("a", encoding="utf-8") as module:
        module.write("\nADDED = 1\n")
    stages, files = changed(untouched, codes(project))
    chain = [name for name in STAGES if name in stages]
    if first in STAGES:
        assert chain[0] == first, kind
        assert files == {f"pipeline/{file}"}
    else:
        assert stages == ({"report"} if first else set()), kind


def test_every_module_has_its_row():
    """A new module is put into the table on purpose, not into a stage by chance."""
    package = ROOT / "pipeline"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    rows = {file for _, *files in KINDS.values() for file in files if file.endswith(".py")}
    private = {name for name in modules if name.endswith("_private.py")} - rows
    shared = {"data/dataset.py", "data/npz.py", "inference/timing.py", "training/hardware.py"}
    files = {"inference/litert.py", "inference/tflite_files.py", "inference/contract.py"}
    files |= {"inference/tflite_metadata.py"}
    left = {name for name in modules - rows - private - shared - files if "__init__" not in name}
    assert left == set()


@pytest.mark.parametrize("script", STAGES)
def test_edit_of_a_script_reruns_that_stage_and_no_earlier_one(project, untouched, script):
    with (project / f"{script}.py").open("a", encoding="utf-8") as file:
        file.write("\nADDED = 1\n")
    stages, _ = changed(untouched, codes(project))
    assert stages == {script}


def test_pruning_never_retrains(untouched):
    """It did: the preflight checks that training.py imports look at both kinds of pruning."""
    assert not [file for file in untouched["training"] if "/pruning/" in file]


def test_budget_makes_no_later_code_part_of_pruning(untouched):
    """It converts and times, which pruning.py does for --budget only."""
    later = ("/quantization/", "/evaluation/", "/inference/litert.py", "/inference/timing.py")
    assert not [file for file in untouched["pruning"] if any(part in file for part in later)]


@pytest.mark.parametrize("edited", ["comment", "docstring", "layout", "hint", "message", "help"])
def test_edit_that_computes_the_same_reruns_nothing(project, untouched, edited):
    losses, script = project / "pipeline" / "training" / "losses.py", project / "training.py"
    text = losses.read_text(encoding="utf-8")
    if edited == "comment":
        losses.write_text(f"# A comment.\n{text}", encoding="utf-8")
    elif edited == "docstring":
        losses.write_text(text.replace('"""', '"""More of it. ', 1), encoding="utf-8")
    elif edited == "layout":
        edit(losses, "JACCARD_WEIGHT = 1.0", "JACCARD_WEIGHT = (\n    1.0\n)")
    elif edited == "hint":
        edit(losses, "shares: list[float]", "shares: Sequence[float]")
    elif edited == "message":
        edit(script, "self-distillation starts", "now self-distillation starts")
    else:
        edit(script, 'help="', 'help="more: ')
    assert changed(untouched, codes(project)) == (set(), set())


def test_renamed_module_can_be_accepted(project, untouched):
    """Its old and its new file differ as code does, which --accept-edits lets pass."""
    package = project / "pipeline"
    (package / "pruning" / "magnitude.py").rename(package / "pruning" / "smallest_weights.py")
    for path in (project / "pruning.py", package / "checks" / "preflight.py"):
        text = path.read_text(encoding="utf-8").replace("magnitude", "smallest_weights")
        path.write_text(text, encoding="utf-8")
    stages, files = changed(untouched, codes(project))
    assert stages == {"pruning"}
    names = {"magnitude.py", "smallest_weights.py"}
    assert files <= {"pruning.py", *(f"pipeline/pruning/{name}" for name in names)}


def test_format_counts_only_where_it_is_read(project):
    before = codes(project, ("ultralytics", "folder_layout"))
    coco = project / "pipeline" / "data" / "formats" / "coco.py"
    coco.write_text(coco.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    assert codes(project, ("ultralytics", "folder_layout")) == before
    assert "pipeline/data/formats/coco.py" in codes(project, ("coco",))["data_preparation"]
