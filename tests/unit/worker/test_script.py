"""How the user's script is run, and how its failure is told."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cordee.worker.script import MAX_TRACEBACK_CHARACTERS, describe_failure, is_machine_fault, run_script


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """`run_script` makes this process the script's: undo it."""
    main, argv, path = sys.modules["__main__"], sys.argv, list(sys.path)
    yield
    sys.modules["__main__"], sys.argv, sys.path[:] = main, argv, path


def failure(folder: Path, script: str, **files: str) -> BaseException:
    for name, text in {"train": script, **files}.items():
        (folder / f"{name}.py").write_text(text)
    try:
        run_script(folder, "train.py", [])
    except BaseException as error:
        return error
    raise AssertionError("the script did not fail")


@pytest.mark.parametrize(
    "script",
    [
        "def f(x):\n    return 1 / x\n\nf(0)\n",
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise RuntimeError('second') from error\n",
        "import helper_of_this_test\nhelper_of_this_test.g()\n",
        "x = (1,\n",
        "raise ValueError('with\\nlines')\n",
    ],
)
def test_the_traceback_is_what_plain_python_prints(tmp_path: Path, script: str) -> None:
    helper = "def g():\n    raise OSError('inside')\n"
    _, trace = describe_failure(failure(tmp_path, script, helper_of_this_test=helper), tmp_path)
    sys.modules.pop("helper_of_this_test", None)
    plain = subprocess.run(
        [sys.executable, str(tmp_path / "train.py")], capture_output=True, text=True, timeout=20, check=False
    )
    assert trace == plain.stderr.replace(f"{tmp_path}/", "")


def test_the_script_is_the_main_module_with_its_own_folder_first(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "train.py").write_text(
        "import sys, pathlib\n"
        "import __main__\n"
        "assert __main__.here == 1 if hasattr(__main__, 'here') else True\n"
        "here = 1\n"
        "assert __main__.here == 1\n"
        "assert __name__ == '__main__'\n"
        "pathlib.Path(__file__).with_name('seen').write_text(repr((sys.argv, sys.path[0])))\n"
        "sys.exit(0)\n"
    )
    run_script(tmp_path, "examples/train.py", ["--epochs", "3"])
    seen = (tmp_path / "examples" / "seen").read_text()
    assert seen == repr((["examples/train.py", "--epochs", "3"], str(tmp_path / "examples")))


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the job's source holds no 'nowhere.py'") as error:
        run_script(tmp_path, "nowhere.py", [])
    line, trace = describe_failure(error.value, tmp_path)
    assert line == "FileNotFoundError: the job's source holds no 'nowhere.py'"
    assert "run_script" not in trace  # none of our frames


def test_an_exit_code_is_told_as_the_script_gave_it(tmp_path: Path) -> None:
    line, _ = describe_failure(failure(tmp_path, "import sys\nsys.exit('no data')\n"), tmp_path)
    assert line == "SystemExit: the script called sys.exit('no data')"


def test_a_failure_can_always_be_told(tmp_path: Path) -> None:
    line, _ = describe_failure(failure(tmp_path, "raise ValueError('\\udcff')\n"), tmp_path)
    assert line.encode() == b"ValueError: \\udcff"
    line, trace = describe_failure(failure(tmp_path, "raise ValueError('x' * 10_000_000)\n"), tmp_path)
    assert len(line) < 10_000
    assert len(trace) < MAX_TRACEBACK_CHARACTERS + 100
    assert trace.startswith("Traceback (most recent call last):\n")
    unsayable = "class E(Exception):\n    def __str__(self):\n        raise RuntimeError\nraise E\n"
    line, _ = describe_failure(failure(tmp_path, unsayable), tmp_path)
    assert line == "E: (its text cannot be had: its __str__ raises)"


def test_memory_and_disks_are_the_machines_fault_and_nothing_else() -> None:
    assert is_machine_fault(MemoryError())
    assert is_machine_fault(OSError(errno.EIO, "Input/output error"))
    for error in (OSError(errno.ENOSPC, "full"), FileNotFoundError(errno.ENOENT, "x"), ImportError(), SyntaxError()):
        assert not is_machine_fault(error)
