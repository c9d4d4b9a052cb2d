"""Commands in messages work where they are pasted: the interpreter, and names of any kind."""

import os
import shlex
import subprocess
import sys

import pytest

from pipeline.base import artifacts, commands
from pipeline.start_check import quoted

WORDS = ["plain", "", "two words", "$HOME", "it's", "`id`", "a*b", "!x", "tab\there", "a\nb", "#1"]
WORDS += ["caf\udce9", "\u5199\u771f", "\x1b[31m9", "back\\slash\n'", "~", "--models-dir=x"]


def test_shell_reads_every_word_as_it_was():
    line = " ".join(map(quoted, WORDS))
    assert line.isprintable(), "a terminal shows all of it"
    command = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_command_names_the_interpreter_that_runs(tmp_path, monkeypatch):
    """ "python" only where the search path leads to it."""
    folder = tmp_path / "bin with space"
    folder.mkdir()
    ours, other = folder / "python", tmp_path / "other"
    ours.symlink_to(os.path.realpath(sys.executable))
    other.mkdir()
    (other / "python").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(sys, "executable", str(ours))
    for path, word in ((other, str(ours)), (folder, "python"), (tmp_path, str(ours))):
        monkeypatch.setenv("PATH", str(path))
        assert shlex.split(commands.command("training.py"))[0] == word
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(other))
    words = shlex.split(commands.command("training.py", "--names", "a b"))
    script = str(artifacts.ROOT / "training.py")
    assert words == ["bin with space/python", script, "--names", "a b"]


def test_interpreter_that_the_user_may_not_look_at_is_named_by_its_path(tmp_path, monkeypatch):
    """The message was about the interpreter, and not about what was wrong."""
    (tmp_path / "python").symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setenv("PATH", str(tmp_path))

    def refused(*_):
        raise PermissionError(13, "Permission denied", sys.executable)

    monkeypatch.setattr(os.path, "samefile", refused)
    assert shlex.split(commands.command("training.py"))[0].endswith(
        os.path.basename(sys.executable)
    )


@pytest.mark.parametrize("name", ["-x", "my $models"])
def test_folder_of_any_name_is_no_flag(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path.__class__(name)
    words = shlex.split(artifacts.command("pruned", folder))
    assert (tmp_path / words[-1]) == tmp_path / name and not words[-1].startswith("-")
    move = commands.move(folder / "a", folder / "b")
    assert shlex.split(move)[1:] == [f"{words[-1]}/a", f"{words[-1]}/b"]
