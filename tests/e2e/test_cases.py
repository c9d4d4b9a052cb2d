"""Scripts in surroundings known from public bug reports: terminals, pipes, folders, directories."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.artifacts import read_record
from pipeline.data.dataset import load_split
from tests.helpers.pictures import PhotoFolder
from tests.helpers.runs import ROOT, run_script


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.slow
def test_folder_with_a_name_that_the_terminal_cannot_show(tmp_path, encoding):
    photos = PhotoFolder(tmp_path / "写真")
    flags = ("--dataset", "folder", "--data-dir", photos.path, "--image-size", 32)
    done = run_script(
        "data_preparation.py",
        *("--models-dir", tmp_path / "モデル", *flags),
        PYTHONIOENCODING=encoding,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "wrote" in done.stdout and "?" in done.stdout
    assert (tmp_path / "モデル" / "dataset.jpg").exists()


@pytest.mark.slow
def test_closed_pipe_does_not_stop_the_data_set(tmp_path):
    """`python data_preparation.py ... | head -1`."""
    photos = PhotoFolder(tmp_path / "photos")
    command = [sys.executable, ROOT / "data_preparation.py", "--models-dir", tmp_path / "models"]
    command += ["--dataset", "folder", "--data-dir", photos.path, "--image-size", "32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(120)) == (b"", 0)
    images, _ = load_split(tmp_path / "models", "train")
    assert len(images) == read_record(tmp_path / "models", "dataset")["splits"]["train"]["examples"]


@pytest.fixture
def unprivileged():
    """The start of a command line that takes away root's right to write everywhere."""
    if os.getuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


@pytest.mark.slow
def test_read_only_folder_is_used_and_not_changed(run_copy, unprivileged):
    """What needs no writing works; what would write is refused at once, and nothing changes."""
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    folders = [run_copy, *(path for path in run_copy.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        for script, arguments, code, says in (
            ("quantization.py", ["--if-needed", "--calibration-images", "20"], 0, "up to date"),
            ("quantization.py", [], 2, f"{run_copy} cannot be written (Permission denied)"),
            ("training.py", [], 2, f"{run_copy} cannot be written (Permission denied)"),
            ("data_preparation.py", ["--dataset", "synthetic"], 2, "Permission denied"),
        ):
            command = [*unprivileged, sys.executable, ROOT / script, "--models-dir", run_copy]
            done = subprocess.run([*command, *arguments], capture_output=True, text=True)
            assert done.returncode == code, done.stderr
            assert says in (done.stderr if code else done.stdout)
            assert done.stderr.count("\n") == (code > 0)
        assert {path: path.read_bytes() for path in before} == before
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize("cwd", [ROOT, Path("/")])
def test_command_in_a_message_works_in_the_directory_of_the_user(tmp_path, cwd):
    """Run as printed, with --help added: it has the path of the script and a quoted folder."""
    models_dir = tmp_path / "my models; and 'yours'"
    done = subprocess.run(
        [sys.executable, ROOT / "training.py", "--models-dir", models_dir],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    command = done.stderr.strip().split("make it with: ")[1]
    assert done.returncode == 2 and shlex.split(command)[-1] == str(models_dir)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pasted = subprocess.run(
        f"{command} --help",
        shell=True,
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (pasted.returncode, pasted.stderr) == (0, "")
    assert "data_preparation.py" in pasted.stdout
