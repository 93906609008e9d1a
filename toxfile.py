"""tox plug-in: lets ``tox`` find the interpreters that pyenv holds but does not activate.

pyenv puts a ``python3.12`` on PATH that refuses to run unless 3.12 is activated, and tox drops the
variable that would activate it.  So the real executables are handed to tox's discovery here.  An
interpreter that is nowhere still fails its environment: see ``skip_missing_interpreters``.

``python toxfile.py`` lists what was found and exits with 1 if a wanted version is missing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

WANTED = ("3.11", "3.12", "3.13")


def runs(executable: str, version: str) -> bool:
    """Say whether ``executable`` starts and is of ``version`` (major.minor)."""
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [executable, "-c", show], capture_output=True, text=True, timeout=30, check=False
        )
    except OSError:
        return False
    return answer.stdout.strip() == version


def find(version: str) -> str | None:
    """Return a working interpreter of ``version``: this one, one on PATH, or one of pyenv's."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path and runs(on_path, version):
        return on_path
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for executable in sorted(root.glob(f"versions/{version}.*/bin/python{version}")):
        if runs(str(executable), version):
            return str(executable)
    return None


FOUND = {version: find(version) for version in WANTED}

# Read by tox when it builds its command line, which is after it loaded this file.
os.environ.setdefault("TOX_DISCOVER", ";".join(path for path in FOUND.values() if path))

if __name__ == "__main__":
    for wanted, path in FOUND.items():
        print(f"Python {wanted}: {path or 'NOT FOUND'}")
    sys.exit(0 if all(FOUND.values()) else 1)
