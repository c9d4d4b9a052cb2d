"""Whether the .tflite files give on ARM what they give here: on four emulated processors.

    python tests/benchmarks/on_arm.py                                 (models/, a temporary folder)
    python tests/benchmarks/on_arm.py --models-dir models/demo --pictures 65 --work-dir /tmp/arm

int8 must give the same bits, else the exit code is 1; float files are summed in another order on
another processor, so that what counts there is whether a pixel's class changes. Times are no use:
emulation says nothing of them.

On Debian for x86-64, without root and without a trace on the system: from Debian's packages
`qemu-aarch64-static` (where it is not installed) and an aarch64 Python with its libraries, from pip
the aarch64 wheels of ai-edge-litert and numpy in the versions that run here: 100 MB to fetch, 151
MB in --work-dir/aarch64, which the next run uses again. Both sides run the program PROGRAM.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.base import cli, console
from pipeline.base.artifacts import MODELS_DIR, artifact_path
from pipeline.base.cli import SEED
from pipeline.base.console import UserError
from pipeline.base.text_table import text_table
from pipeline.data.dataset import load_split
from pipeline.inference.litert import open_interpreter
from pipeline.variants import VARIANTS

COLUMNS = (
    *(("file", -16), ("CPU", -13), ("values", 12)),
    *(("values different", 19), ("classes different", 20)),
)
FILES = ("int8", "float32", "float16")

# What an emulated processor says of itself: its number at ARM, and what it can do. LiteRT's
# kernels ask /proc/cpuinfo for the number (and crash where it has none), and choose by it. Named
# processors only: qemu 7.2 computes wrong with "max".
OLD = "fp asimd evtstrm aes pmull sha1 sha2 crc32"  # ARMv8.0
NEW = f"{OLD} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"  # 8.2: int8 dot products
PROCESSORS = {
    "cortex-a53": (0xD03, OLD),  # Raspberry Pi 3
    "cortex-a72": (0xD08, OLD),  # Raspberry Pi 4
    "cortex-a76": (0xD0B, NEW),  # Raspberry Pi 5, phones
    "neoverse-n1": (0xD0C, NEW),  # servers
}

LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8")
WHEELS = ("ai-edge-litert", "numpy")
PLATFORMS = ("2_28", "2_27", "2_17")  # of manylinux wheels, which Debian 12 and later run

# Runs a file on pictures: python PROGRAM FILE.tflite PICTURES.npy OUTPUTS.npy
PROGRAM = """\
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
outputs = []
for picture in np.load(sys.argv[2]):
    if given["dtype"] == np.float32:
        picture = picture.astype(np.float32) / 255
    elif given["dtype"] == np.int8:
        picture = (picture.astype(np.int16) - 128).astype(np.int8)
    interpreter.set_tensor(given["index"], picture[None])
    interpreter.invoke()
    outputs.append(interpreter.get_tensor(made["index"])[0])
np.save(sys.argv[3], np.stack(outputs))
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models-dir", type=Path, default=MODELS_DIR, metavar="DIR")
    parser.add_argument("--seed", type=cli.bounded(int, 0, cli.LARGEST_SEED), default=SEED)
    parser.add_argument(
        "--files",
        nargs="+",
        choices=tuple(VARIANTS),
        default=FILES,
        metavar="NAME",
        help=f"of {', '.join(VARIANTS)} (default: {' '.join(FILES)})",
    )
    parser.add_argument(
        "--pictures",
        type=cli.bounded(int, 1),
        default=20,
        help="a seeded sample of the validation split, noise if there is no data set (default: 20)",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="where the aarch64 system is built, or lies since the last run (default: temporary)",
    )
    return parser.parse_args(argv)


# --- an aarch64 system in a folder --------------------------------------------------------------


def call(command: list[str | Path], what: str, folder: Path | None = None) -> str:
    """What a program prints.

    Raises:
        UserError: it failed; `what` says what it was to do.
    """
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"cannot {what}: {last_line(done.stderr.strip() or done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1]


def apt_options(folder: Path, host: str) -> list[str]:
    """Options with which apt knows aarch64 packages, in a folder of its own: the system's stays."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # nothing is installed
    settings = {
        "APT::Architecture": host,
        "APT::Architectures": f"{host},arm64",
        "APT::Sandbox::User": "root",  # who fetches, if root calls: others cannot write here
        "APT::Update::Error-Mode": "any",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def fetch_debian(work_dir: Path) -> None:
    """Makes work_dir/system (an aarch64 Python), and work_dir/qemu if qemu is not installed."""
    for program in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        if shutil.which(program) is None:
            raise UserError(f"{program} is missing: this check takes its packages from Debian")
    host = call(["dpkg", "--print-architecture"], "ask for the architecture").strip()
    options = apt_options(work_dir / "apt", host)
    call(["apt-get", *options, "update"], "fetch Debian's lists of packages")
    needs = call(["apt-cache", *options, "depends", "python3-minimal:arm64"], "look for Python")
    found = re.search(r"(python3\.\d+)-minimal", needs)
    if found is None:
        raise UserError("Debian's lists name no python3-minimal for arm64; is this Debian?")
    python = found[1]
    names = [f"{python}-minimal", f"lib{python}-minimal", f"lib{python}-stdlib", *LIBRARIES]
    packages = work_dir / "packages"
    packages.mkdir()
    wanted = [f"{name}:arm64" for name in names]
    qemu_missing = shutil.which("qemu-aarch64-static") is None
    wanted += ["qemu-user-static"] * qemu_missing
    call(["apt-get", *options, "download", *wanted], f"fetch {' '.join(wanted)}", packages)

    system = work_dir / "system"
    for package in packages.glob("*_arm64.deb"):
        call(["dpkg-deb", "-x", package, system], f"unpack {package.name}")
    if not (system / "lib").exists():  # from Debian 13 on all lies under usr
        (system / "lib").symlink_to("usr/lib")
    if qemu_missing:
        (package,) = packages.glob("qemu-user-static_*.deb")
        with tempfile.TemporaryDirectory(dir=work_dir) as unpacked:
            call(["dpkg-deb", "-x", package, unpacked], f"unpack {package.name}")
            shutil.copy2(Path(unpacked) / "usr/bin/qemu-aarch64-static", work_dir / "qemu")
    shutil.rmtree(packages)
    shutil.rmtree(work_dir / "apt")


def fetch_wheels(work_dir: Path, python: str) -> None:
    """Makes work_dir/site of the aarch64 wheels, for a Python such as "3.11"."""
    wheels = work_dir / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for manylinux in PLATFORMS:
        command += ["--platform", f"manylinux_{manylinux}_aarch64"]
    command += ["--platform", "manylinux2014_aarch64", "--dest", str(wheels)]
    command += [f"{name}=={version(name)}" for name in WHEELS]
    call(command, f"fetch the aarch64 wheels of {' and '.join(WHEELS)} for Python {python}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work_dir / "site")
    shutil.rmtree(wheels)


def build_system(work_dir: Path) -> None:
    """Builds the aarch64 system, unless the folder holds it in these versions."""
    mark, made_of = work_dir / "ready", " ".join(f"{name}=={version(name)}" for name in WHEELS)
    if mark.exists() and mark.read_text() == made_of:
        return
    shutil.rmtree(work_dir, ignore_errors=True)  # of other versions, or of a run that was killed
    work_dir.mkdir(parents=True)
    console.say("fetching an aarch64 Python from Debian's packages")
    fetch_debian(work_dir)
    console.say("fetching the aarch64 wheels")
    fetch_wheels(work_dir, emulated_python(work_dir).name.removeprefix("python"))
    mark.write_text(made_of)


def emulated_python(work_dir: Path) -> Path:
    """The aarch64 system's Python."""
    return next((work_dir / "system/usr/bin").glob("python3.*[0-9]"))


# --- running files ------------------------------------------------------------------------------


def outputs(
    path: Path, pictures: np.ndarray, work_dir: Path, processor: str | None = None
) -> np.ndarray:
    """What a .tflite file makes of pictures: here, or on an emulated processor.

    Args:
        pictures: uint8 (n, size, size, 3).

    Returns:
        (n, size, size, classes) in the type of the file's output.
    """
    command, environment = [sys.executable], dict(os.environ)
    if processor is not None:
        system = work_dir / "system"
        write_cpuinfo(system / "proc/cpuinfo", *PROCESSORS[processor])
        qemu = shutil.which("qemu-aarch64-static") or str(work_dir / "qemu")
        command = [qemu, "-cpu", processor, str(emulated_python(work_dir))]
        environment = {"QEMU_LD_PREFIX": str(system), "PYTHONPATH": str(work_dir / "site")}
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        folder = Path(name)
        (folder / "program.py").write_text(PROGRAM)
        np.save(folder / "pictures.npy", pictures)
        command += [str(folder / "program.py"), str(path.resolve())]
        command += [str(folder / "pictures.npy"), str(folder / "outputs.npy")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"{path} does not run on {processor or 'this machine'}: {last_line(done.stderr)} "
                f"(code {done.returncode})"
            )
        return np.load(folder / "outputs.npy")


def write_cpuinfo(path: Path, part: int, features: str) -> None:
    """Writes what the emulated programs read as /proc/cpuinfo."""
    about = {"BogoMIPS": "100.00", "Features": features, "CPU implementer": "0x41"}  # ARM
    about |= {"CPU architecture": "8", "CPU variant": "0x0", "CPU part": f"{part:#x}"}
    about |= {"CPU revision": "0"}
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for number in range(os.cpu_count() or 1):
            lines = {"processor": str(number), **about}
            file.writelines(f"{key}\t: {value}\n" for key, value in lines.items())
            file.write("\n")


def choose_pictures(models_dir: Path, path: Path, number: int, seed: int) -> tuple[np.ndarray, str]:
    """Pictures of the size that a file takes, and what they are."""
    random = np.random.default_rng(seed)
    if not artifact_path(models_dir, "dataset").exists():
        shape = open_interpreter(path).get_input_details()[0]["shape"]
        return random.integers(0, 256, (number, *shape[1:]), np.uint8), "pictures of noise"
    images, _ = load_split(models_dir, "validation")  # evaluation.py alone reads test
    rows = np.sort(random.choice(len(images), min(number, len(images)), replace=False))
    return np.ascontiguousarray(images[rows]), "pictures of the validation split"


# --- the check ----------------------------------------------------------------------------------


def compare(names: list[str], arguments: argparse.Namespace, work_dir: Path) -> int:
    """Prints the table. Returns the number of int8 values that differ."""
    paths = {name: artifact_path(arguments.models_dir, name) for name in names}
    pictures, kind = choose_pictures(
        arguments.models_dir, paths[names[0]], arguments.pictures, arguments.seed
    )
    console.say(
        f"{len(pictures)} {kind}, {pictures.shape[1]} x {pictures.shape[2]}; "
        f"LiteRT {version('ai-edge-litert')}, ARM emulated, against x86-64"
    )
    wrong, cells = 0, []
    for name, path in paths.items():
        here = outputs(path, pictures, work_dir)
        for processor in PROCESSORS:
            there = outputs(path, pictures, work_dir, processor)
            values = int(np.sum(there != here))
            classes = int(np.sum(there.argmax(-1) != here.argmax(-1)))
            cells.append((name, processor, f"{here.size:,}", f"{values:,}", f"{classes:,}"))
            if VARIANTS[name].activations == "int8":
                wrong += values
    console.say("\n".join(text_table(COLUMNS, cells)))
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Builds the aarch64 system, runs the files on both sides. Returns the exit code."""
    arguments = parse(argv)
    if platform.machine() != "x86_64":
        raise UserError(f"this machine is {platform.machine()}: the comparison needs x86-64")
    names = [n for n in arguments.files if artifact_path(arguments.models_dir, n).exists()]
    if not names:
        raise UserError(
            f"{arguments.models_dir} holds none of the files {' '.join(arguments.files)}; "
            "make them with: make"
        )
    with tempfile.TemporaryDirectory() as temporary:
        # A folder of its own in the user's, because it is removed where it is of no more use.
        work_dir = (arguments.work_dir or Path(temporary)).resolve() / "aarch64"
        build_system(work_dir)
        wrong = compare(names, arguments, work_dir)
    console.say(f"FAILED: {wrong} int8 values differ" if wrong else "int8: the same bits")
    return 1 if wrong else 0


if __name__ == "__main__":
    console.run(main)
