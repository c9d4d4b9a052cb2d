"""The trained model that comes with the project, for who has trained none yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.base.artifacts import ARTIFACTS, MODELS_DIR, PRETRAINED_DIR, artifact_path
from pipeline.base.console import say


def folder_of_models(models_dir: Path, names: Iterable[str]) -> Path:
    """The folder whose models --image, --npu and --profile use.

    Args:
        models_dir: as the command line gives it.
        names: artifacts; one of them is needed.

    Returns:
        `models_dir` if the user named it, or if one of the models is there. Else the pretrained
        model's folder, after a line that says so; or `models_dir` again if that is not there.
    """
    named_by_user = models_dir is not MODELS_DIR  # the default is this object, not an equal one
    files = [ARTIFACTS[name][0] for name in names]
    if named_by_user or any((models_dir / file).exists() for file in files):
        return models_dir
    if not any((PRETRAINED_DIR / file).exists() for file in files):
        return models_dir
    path = artifact_path(PRETRAINED_DIR, "int8").relative_to(MODELS_DIR.parent)
    say(
        f"note: nothing is trained in {MODELS_DIR.name}/ yet; this is {path}, trained on cats and "
        "dogs (classes: pet, background, border)"
    )
    return PRETRAINED_DIR
