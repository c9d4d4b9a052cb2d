"""Every command of the README, run in a fresh copy of the project, in the README's order.

Long ones run with small settings (SMALL) on few pictures. A new command of the README needs no
change here unless it is long, or runs something other than a script.
"""

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.base.artifacts import PRETRAINED_DIR
from tests.helpers.runs import ROOT, copy_code, edit
from tests.helpers.small_network import small_unet

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("  #")[0].split(" # ")[0].strip() for block in BLOCKS for line in block.splitlines()
]
DATA, PRUNING = "--dataset synthetic --image-size 32", "--epochs 1 --batch-size 4"
TRAINING = "--encoder scratch --epochs 1 --taught-epochs 0 --batch-size 16 --enlarge 1"
CALIBRATION = "--calibration-images 8"
SMALL = {  # by script: flags that are added to its commands
    "data_preparation.py": DATA,
    "training.py": TRAINING,
    "pruning.py": PRUNING,
    "quantization.py": CALIBRATION,
}
INSTEAD = {  # by command: what is run for it
    "make install": "make -n install",
    ". .venv/bin/activate": "test -x .venv/bin/python",
    "make demo": "make -n demo",
    "make": "make -n all",
    "make test": "make -n test",
    "python pruning.py --sensitivity": "python pruning.py --sensitivity",
}
# The toy networks learn little: a limit may be passed, and is then exit code 1.
MAY_FAIL = ("--max-drop",)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project with few drawn pictures, and what a user has beside it."""
    project = copy_code(tmp_path_factory.mktemp("project") / "project")
    counts = 'COUNTS = {"train": 40, "test": 8}'
    synthetic = project / "pipeline" / "data" / "formats" / "synthetic.py"
    edit(synthetic, 'COUNTS = {"train": 900, "test": 200}', counts)
    with (project / "pipeline" / "training" / "networks.py").open("a", encoding="utf-8") as file:
        file.write(f'\n\n{inspect.getsource(small_unet)}\n\nNETWORKS["compact"] = small_unet\n')
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("*.py"))
    (project / ".venv").symlink_to(sys.prefix)
    (project / "models").mkdir()
    if PRETRAINED_DIR.exists():
        shutil.copytree(PRETRAINED_DIR, project / "models" / "pretrained")
    for name in ("cat.jpg", "dog.png"):
        Image.radial_gradient("L").convert("RGB").resize((90, 60)).save(project / name)
    for number in range(24):
        draw_own_picture(project / "my_photos", f"street{number}", np.random.default_rng(number))
    return project


def draw_own_picture(folder: Path, name: str, random: np.random.Generator) -> None:
    """A photo and its mask of the classes 0, 1 and 2, as the README says they lie."""
    mask = np.full((48, 64), 2, np.uint8)
    mask[24:] = 0
    left = int(random.integers(0, 40))
    mask[18:34, left : left + 20] = 1
    colours = np.array([[90, 90, 90], [200, 30, 30], [120, 170, 230]])
    pixels = (colours[mask] + random.normal(0, 12, (48, 64, 3))).clip(0, 255).astype(np.uint8)
    for part, content, suffix in (("images", pixels, "jpg"), ("masks", mask, "png")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(folder / part / f"{name}.{suffix}")


def small(command: str) -> str:
    """The command that is run for one of the README's."""
    if command in INSTEAD:
        return INSTEAD[command]
    script = command.split()[1] if command.startswith("python ") else ""
    own = command.replace("480x352", "64x32")  # its size and names stay
    added = SMALL.get(script, "")
    return f"{own} {added if '--data ' not in own else ''}".strip()


@pytest.fixture(scope="module")
def outcomes(checkout):
    """What each command printed, and its exit code, in the README's order."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    folder, done = checkout, []
    for command in COMMANDS:
        if command.startswith("cd "):
            folder = folder / command.removeprefix("cd ")
            if not folder.is_dir():
                break  # the command that makes it failed
            shutil.copy(checkout / "cat.jpg", folder)
            continue
        run = subprocess.run(
            ["sh", "-c", small(command)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        done.append((command, run))
    return done


def test_readme_has_commands():
    assert len(COMMANDS) > 20
    assert all(shlex.split(command) for command in COMMANDS)


def test_every_command_works(outcomes):
    faults = [
        f"{command}: exit code {run.returncode}\n{run.stdout[-2000:]}{run.stderr[-2000:]}"
        for command, run in outcomes
        if run.returncode not in ((0, 1) if any(part in command for part in MAY_FAIL) else (0,))
        or "Traceback" in run.stderr
    ]
    assert not faults, "\n\n".join(faults)


def test_photo_and_its_overlay_lie_side_by_side(outcomes, checkout):
    for name in ("cat.jpg", "dog.png"):
        with Image.open(checkout / f"{name}.overlay.png") as overlay:
            assert overlay.size == (90, 60)


def test_folder_to_hand_over_is_checked_by_its_program(outcomes, checkout):
    (run,) = [run for command, run in outcomes if "run_on_device.py" in command]
    assert run.stdout.startswith("OK"), run.stdout
    assert list((checkout / "handover").glob("cat*.classes.png"))
