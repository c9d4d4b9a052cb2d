"""Scripts started by a Python that cannot run them say so in one line, with what mends it."""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline import start_check
from pipeline.base.artifacts import ROOT
from pipeline.start_check import PACKAGES, SCRIPTS

OUTDATED = (3, 8)  # the oldest Python that gets as far as the message


def run(*command, folder, **environment):
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    """A copy of the code, without an environment, in a folder with a space in its name."""
    folder = tmp_path / "my project"
    shutil.copytree(
        ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in (*SCRIPTS, "Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def bare(tmp_path):
    """The Python of a virtual environment without any package, pip included."""
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare" / "bin" / "python"


@pytest.fixture
def of_the_system():
    """A Python that is no virtual environment and has no packages: -S leaves those out that it has.

    A test that needs it is skipped where the system's own Python has all of the pipeline's.
    """
    python = sys._base_executable
    if start_check.is_true(python, start_check.FINDS_PACKAGES):
        pytest.skip("the system's Python has the packages")
    return python


@pytest.fixture(scope="module")
def packages_folder():
    """Where the packages are that this test runs with."""
    return os.path.dirname(os.path.dirname(importlib.util.find_spec("numpy").origin))


def make_environment(project, packages_folder):
    """An environment of the project that has the packages."""
    venv.create(project / ".venv", with_pip=False)
    (site,) = (project / ".venv").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages_folder}\n", encoding="utf-8")


def only_line(done, script):
    """The line that a script ended with."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"{script}: ")
    return done.stderr.removeprefix(f"{script}: ").strip()


# --- Python without packages ----------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_python_without_packages_is_told_of_the_one_that_has_them(
    project, bare, packages_folder, script
):
    make_environment(project, packages_folder)
    line = only_line(run(bare, script, "--help", folder=project), script)
    command = f".venv/bin/python {script} --help"
    assert re.fullmatch(rf"{bare} lacks tensorflow, .* more packages; run: {command}", line)
    works = run("sh", "-c", command, folder=project)
    assert (works.returncode, works.stderr) == (0, "") and works.stdout.startswith("usage: ")


def test_command_is_the_one_that_was_typed_wherever_the_user_is(
    project, bare, packages_folder, tmp_path
):
    make_environment(project, packages_folder)
    script = project / "training.py"
    line = only_line(
        run(bare, script, "--models-dir", "my models", "-h", folder=tmp_path), script.name
    )
    command = shlex.split(line.split("; run: ")[1])
    assert command == [
        str(project / ".venv/bin/python"),
        str(script),
        "--models-dir",
        "my models",
        "-h",
    ]
    assert run(*command, folder=tmp_path).returncode == 0


def test_python_of_the_system_is_told_to_make_an_environment(project, of_the_system):
    done = run(of_the_system, "-S", "training.py", "--help", folder=project)
    line = only_line(done, "training.py")
    make = f"make PYTHON={of_the_system} .venv/ready"
    assert line.endswith(f"; run: {make} && .venv/bin/python training.py --help")
    recipe = run("make", "-n", *make.split()[1:], folder=project).stdout
    assert "pip install" in recipe and "requirements.txt" in recipe


def test_environment_without_the_packages_is_made_again(project, of_the_system):
    venv.create(project / ".venv", with_pip=False)
    line = only_line(run(of_the_system, "-S", "pruning.py", folder=project), "pruning.py")
    assert "; run: rm -r .venv && make PYTHON=" in line


def test_without_make_the_environment_is_made_by_python(project, of_the_system):
    done = run(of_the_system, "-S", "pruning.py", folder=project, PATH="/nowhere")
    assert only_line(done, "pruning.py").split("; run: ")[1].split(" && ") == [
        f"{of_the_system} -m venv --clear .venv",
        ".venv/bin/python -m pip install -r requirements.txt",
        ".venv/bin/python pruning.py",
    ]


def test_environment_that_somebody_made_gets_the_packages(project, bare):
    line = only_line(run(bare, "pruning.py", folder=project), "pruning.py")
    assert line.endswith(f"; run: {bare} -m ensurepip && {bare} -m pip install -r requirements.txt")


def test_folder_of_a_package_name_is_not_taken_for_the_package(tmp_path, monkeypatch):
    """`tensorflow_datasets/` beside the scripts holds data."""
    (tmp_path / "folder_of_data").mkdir()
    (tmp_path / "module_of_code.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert not start_check.is_installed("folder_of_data")
    assert start_check.is_installed("module_of_code")


def test_other_programs_get_an_import_error_with_the_same_text(project, bare, packages_folder):
    make_environment(project, packages_folder)
    done = run(bare, "-c", "import pipeline", folder=project)
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert re.fullmatch(
        rf"ImportError: {bare} lacks tensorflow, .* more packages; run: \.venv/bin/python", error
    )


# --- Python of another version --------------------------------------------------------------

ANOTHER_VERSION = """
import runpy, sys
sys.version_info = {version}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("version", "fault"),
    [((3, 8, 18), "Python 3.8 is too old"), ((3, 14, 0), "Python 3.14 is too new")],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_python_of_a_version_that_cannot_work_is_told_which_do(project, script, version, fault):
    program = ANOTHER_VERSION.format(version=version)
    done = run(sys.executable, "-c", program, script, "--help", folder=project, PATH=os.defpath)
    line = only_line(done, script)
    assert line.startswith(f"{fault}, Python 3.10 to 3.13 work; ")
    assert re.search(r"run: .*python3\.\d+ .*&& \.venv/bin/python \w+\.py --help$", line)


def test_version_that_cannot_work_is_told_of_the_environment_that_can(project, packages_folder):
    make_environment(project, packages_folder)
    program = ANOTHER_VERSION.format(version=(3, 9, 1))
    done = run(sys.executable, "-c", program, "training.py", "--epochs", "3", folder=project)
    assert only_line(done, "training.py").endswith("; run: .venv/bin/python training.py --epochs 3")


@pytest.mark.parametrize("name", [*SCRIPTS, "pipeline/__init__.py", "pipeline/start_check.py"])
def test_old_python_can_parse_what_leads_to_the_message(name):
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=OUTDATED)


def test_python_that_removes_docstrings_is_told_so(project):
    done = run(sys.executable, "training.py", "--help", folder=project, PYTHONOPTIMIZE="2")
    line = only_line(done, "training.py")
    command = f"PYTHONOPTIMIZE=0 {sys.executable} training.py --help"
    assert line == f"-OO removes the docstrings that Keras needs; run: {command}"
    assert run("sh", "-c", command, folder=project, PYTHONOPTIMIZE="2").returncode == 0


# --- the check itself -----------------------------------------------------------------------


def test_python_that_leaves_the_scripts_folder_out_finds_the_package(tmp_path):
    """-P, -I and PYTHONSAFEPATH do. It was a traceback: no module named 'pipeline'."""
    done = run(sys.executable, "-I", ROOT / "quantization.py", "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: ")


def test_python_that_hides_the_packages_is_told_so(tmp_path):
    """-S does. The advice was to install them."""
    done = run(sys.executable, "-S", ROOT / "training.py", "--help", folder=tmp_path)
    assert done.returncode == 2 and "-S hides the installed packages; run: " in done.stderr


def test_packages_are_the_direct_requirements():
    direct = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n\n")[0]
    assert set(re.findall(r"^([\w-]+)==", direct, re.MULTILINE)) == set(PACKAGES)
    distributions = importlib.metadata.packages_distributions()
    for package, module in PACKAGES.items():
        names = {name.lower().replace("_", "-") for name in distributions[module]}
        assert package in names


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_imports_no_package_before_the_check(script):
    names = []
    for node in ast.parse((ROOT / script).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module.split(".")[0])
    assert set(names[: names.index("pipeline")]) <= set(sys.stdlib_module_names)


def test_import_of_the_package_checks_quickly_and_sets_two_variables():
    program = f"""
import os, signal, sys
os.environ.pop("TF_USE_LEGACY_KERAS", None), os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
before, hook = dict(os.environ), sys.excepthook
import pipeline
from pipeline import start_check
new = {{key: value for key, value in os.environ.items() if key not in before}}
assert new == {{"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}}, new
assert sys.excepthook is hook and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
assert not [name for name in {list(PACKAGES.values())} if name in sys.modules]
assert start_check.fault_of_this_python() is None
"""
    done = run(sys.executable, "-c", program, folder=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_variables_that_the_user_set_stay():
    program = "import os, pipeline; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    done = run(sys.executable, "-c", program, folder=ROOT, TF_CPP_MIN_LOG_LEVEL="0")
    assert done.stdout == "0\n"


def test_supported_versions_are_those_of_the_makefile_and_the_readme():
    oldest, newest = start_check.OLDEST, start_check.NEWEST
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    above = (newest[0], newest[1] + 1)
    assert f"{oldest} <= sys.version_info < {above}" in makefile
    names = ".".join(map(str, oldest)), ".".join(map(str, newest))
    assert "Python {} to {}".format(*names) in readme
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={names[0]},<{".".join(map(str, above))}"' in project


def fake_python(path: Path, version: tuple[int, ...]) -> None:
    """A program that answers as a Python of this version does, and cannot do anything else."""
    path.write_text(
        f"""#!{sys.executable}
import sys
sys.version_info = {version!r}
exec(sys.argv[2]) if sys.argv[1] == "-c" else sys.exit(" ".join(sys.argv))
""",
        encoding="utf-8",
    )
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        ({"python3": (3, 11)}, "python3"),
        ({"python3": (3, 14), "python3.13": (3, 13), "python3.12": (3, 12)}, "python3.13"),
        ({"python3": (3, 9), "python3.10": (3, 10)}, "python3.10"),
        ({"python3": (3, 14)}, None),
        ({}, None),
    ],
)
def test_make_takes_a_python_that_fits(tmp_path, versions, chosen):
    """It took python3, and said: make PYTHON=python3.12, which was not there either."""
    names = ["python3", *(f"python3.{minor}" for minor in range(8, 20))]
    for name in names:  # those of this machine are hidden
        fake_python(tmp_path / name, versions.get(name, (2, 7)))
    for name in ("make", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    new = tmp_path / "new"
    done = run("make", f"VENV={new}", new / "ready", folder=ROOT, PATH=str(tmp_path))
    assert done.returncode != 0
    if chosen:
        assert f"{tmp_path / chosen} -m venv {new}" in done.stderr
    else:
        assert done.stderr.startswith("Python 3.10 to 3.13 is needed: install one")


def test_gpu_packages_are_added_to_an_environment_that_has_the_others(tmp_path):
    """By `make GPU=1`, before a run as before `make install`; a plain `make` needs no more then."""
    for name in ("Makefile", "requirements.txt", "requirements-gpu.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "ready").touch()

    def installs(*words):
        recipe = run("make", "-n", *words, folder=tmp_path).stdout
        return [line.split(" -r ")[1] for line in recipe.splitlines() if "pip install" in line]

    assert installs("install") == installs("install", "GPU=0") == []
    assert installs("install", "GPU=1") == installs("GPU=1") == ["requirements-gpu.txt"]
    (tmp_path / ".venv" / "ready-for-gpu").touch()
    assert installs("install", "GPU=1") == []


def test_cuda_libraries_are_those_of_the_tensorflow_that_is_installed():
    """The extra `and-cuda` of its package names them; a pin of another version would not do."""
    text = (ROOT / "requirements-gpu.txt").read_text(encoding="utf-8")
    assert f'tensorflow[and-cuda]=={importlib.metadata.version("tensorflow")}"' in text
    pins = dict(re.findall(r"^(nvidia-[\w-]+)==(\S+)$", text, re.MULTILINE))
    wanted = [
        Requirement(line)
        for line in importlib.metadata.requires("tensorflow")
        if "and-cuda" in line
    ]
    assert {need.name for need in wanted} == pins.keys()
    assert all(need.specifier.contains(pins[need.name]) for need in wanted)
