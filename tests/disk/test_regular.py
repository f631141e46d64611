"""Only regular files are read, and nothing is written through a link."""

import ast
import errno
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from autodo_jax.disk import regular

PACKAGE = pathlib.Path(regular.__file__).parents[1]


def link_to(target):
    return lambda path: path.symlink_to(target)


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NOT_FILES = {
    "folder": (os.mkdir, "it is a folder, not a file"),
    "pipe": (os.mkfifo, "it is a pipe, not a file"),
    "socket": (bind, "it is a socket, not a file"),
    "device": (link_to("/dev/zero"), "it is a device, not a file"),
    "no device": (link_to("/dev/null"), "it is a device, not a file"),
    "link to a folder": (link_to("/"), "it is a folder, not a file"),
    "link to nothing": (link_to("nothing"), "No such file"),
    "link to itself": (link_to("x"), "Too many levels of symbolic links"),
    "nothing": (lambda path: None, "No such file"),
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_file_is_refused_at_once(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The paths of sockets are short.
    make, expected = NOT_FILES[kind]
    make(pathlib.Path("x"))
    with pytest.raises(OSError, match=expected):
        regular.read("x", 10)
    with pytest.raises(OSError):
        regular.append(pathlib.Path("x"), b"text")


def test_no_more_is_read_than_may_be(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert regular.read(path, 5) == b"12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        regular.read(path, 4)
    os.truncate(path, 2**40)  # of a file that takes no room on the disk
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        regular.read(path, 2**20)
    # Files of the system grow while they are read, and say that they are empty.
    with pytest.raises(ValueError, match="more than 10 bytes"):
        regular.read("/proc/self/maps", 10)


def test_what_a_link_leads_to_stays_as_it_is(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path = tmp_path / "x"
    path.symlink_to(precious)
    with pytest.raises(OSError):
        regular.append(path, b"more")
    with pytest.raises(FileExistsError):
        regular.create(path)
    regular.write(path, lambda file: file.write(b"new"))
    assert not path.is_symlink() and path.read_text() == "new"
    regular.append(path, b" more")
    assert path.read_text() == "new more"
    os.link(precious, tmp_path / "y")  # of two names one file
    with pytest.raises(OSError, match="the file of another name"):
        regular.append(tmp_path / "y", b"more")
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        regular.create(path)
    assert not (tmp_path / "nothing").exists() and precious.read_text() == "precious"


def test_the_names_of_parts_cannot_be_known(tmp_path):
    names = set()

    def save(file):
        names.add(file.name)
        assert [pathlib.Path(file.name)] == regular.parts_of(path)

    path = tmp_path / ("x" * 250)  # and are short enough
    for _ in range(3):
        regular.write(path, save)
    assert len(names) == 3 and os.listdir(tmp_path) == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_append_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("whole\n")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: write(fd, content[:2]))
    with pytest.raises(OSError) as error:
        regular.append(path, b"torn\n")
    assert error.value.errno == errno.ENOSPC and path.read_text() == "whole\n"


KILLED = """
import os, pathlib, signal, sys
from autodo_jax.disk import regular
def save(file):
    file.write(b"half")
    file.flush()
    {action}
regular.write(pathlib.Path(sys.argv[1]), save)
"""


@pytest.mark.slow
def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "x"
    program = [sys.executable, "-c"]
    kill = KILLED.format(action="os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([*program, kill, str(path)])
    (part,) = tmp_path.iterdir()
    assert part.name.endswith(".tmp") and part.read_text() == "half"
    wait = KILLED.format(action="print(flush=True); sys.stdin.read()")
    living = subprocess.Popen(
        [*program, wait, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert living.stdout is not None
    living.stdout.readline()
    assert not part.exists()
    # That of a process that writes still is not taken for one that was left.
    regular.write(path, lambda file: file.write(b"whole"))
    living.communicate()
    assert living.returncode == 0 and path.read_text() == "half"
    assert os.listdir(tmp_path) == ["x"]


WRITERS = {"write_text", "write_bytes", "touch", "copyfile", "copy", "copy2", "replace"}
# Text, arrays and data classes have methods of these names; none is of a path.
HARMLESS, MODULES = {"replace", "copy"}, ("os", "shutil")


def writes(path):
    """Yields the lines of a program that write a file on their own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        of = node.func
        name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
        modes = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
        modes += [
            keyword.value.value
            for keyword in node.keywords
            if keyword.arg == "mode" and isinstance(keyword.value, ast.Constant)
        ]
        is_open = name in ("open", "fdopen") and not (
            all(isinstance(mode, str) and not set(mode) & set("wax+") for mode in modes)
        )
        owner = getattr(getattr(of, "value", None), "id", "")
        is_writer = isinstance(of, ast.Attribute) and name in WRITERS
        is_writer = is_writer and owner != "files"
        if is_open or (is_writer and (name not in HARMLESS or owner in MODULES)):
            yield node.lineno


def test_all_files_are_written_by_one_module():
    found = {
        (path.relative_to(PACKAGE).as_posix(), line)
        for path in PACKAGE.rglob("*.py")
        for line in writes(path)
    }
    assert {path for path, _ in found} == {"disk/regular.py"}, found
