"""Compare each hand-written stub with its compiled module (mypy's stubtest).

Run from the ``type`` environment.  The comparison works in a folder of its own, so that it sees the
installed package and not the checkout.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FAST = HERE.parents[1] / "netstack" / "_fast"


def main() -> int:
    """Return stubtest's exit code."""
    modules = [f"netstack._fast.{path.stem}" for path in sorted(FAST.glob("*.pyi"))]
    allowlist = HERE / "stubs-allow.txt"
    command = [sys.executable, "-P", "-m", "mypy.stubtest", "--allowlist", str(allowlist)]
    command += ["--ignore-unused-allowlist", "--ignore-disjoint-bases", *modules]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
