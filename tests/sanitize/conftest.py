"""The suite of the sanitizers: only on a build that has one, with workers compiled the same way."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import netstack

HERE = Path(__file__).resolve().parent
BUILD = json.loads((Path(netstack.__file__).parent / "_fast" / "build.json").read_text(encoding="utf-8"))
SANITIZER = BUILD["sanitize"]

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
import netstack

flags = {flags!r}
setup(
    name="meet",
    script_args=["build_ext", "--inplace"],
    ext_modules=cythonize(
        [Extension("meet", ["meet.pyx"], include_dirs=[netstack.get_include()], libraries=[],
                   extra_compile_args=flags, extra_link_args=flags)],
        language_level=3, emit_linenums=True,
        compiler_directives=dict(cdivision=True, freethreading_compatible=True),
    ),
)
"""

FLAGS = {"thread": ["-fsanitize=thread"], "address": ["-fsanitize=address,undefined", "-fno-wrapv"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip this folder's tests where no sanitizer looks on."""
    if SANITIZER is None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="this build has no sanitizer: tox -e tsan,asan"))


@pytest.fixture(scope="session")
def meet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the compiled workers, ``meet``."""
    folder = tmp_path_factory.mktemp("meet")
    (folder / "meet.pyx").write_text((HERE / "meet.pyx").read_text(encoding="utf-8"), encoding="utf-8")
    flags = [*FLAGS[SANITIZER], "-DNETSTACK_MUTANTS=1", "-O1", "-g1", "-fno-omit-frame-pointer", "-fno-strict-aliasing"]
    (folder / "build.py").write_text(textwrap.dedent(SETUP.format(flags=flags)), encoding="utf-8")
    command = [sys.executable, "-P", "build.py"]
    # the compiler needs no runtime before it, and is slow with one
    built = subprocess.run(
        ["env", "-u", "LD_PRELOAD", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def sanitizer() -> str:
    """Which sanitizer looks on: "thread" or "address"."""
    return SANITIZER


@pytest.fixture(scope="session")
def knows_locks() -> bool:
    """Say whether spin locks are locks to ThreadSanitizer in this build."""
    return "-DNETSTACK_TSAN_LOCKS=1" in BUILD["flags"]
