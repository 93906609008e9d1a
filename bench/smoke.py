"""Run every benchmark for a moment and check that each one produces numbers, not how large.

``python -P bench/smoke.py FOLDER`` writes pytest-benchmark's record to ``FOLDER/smoke.json``.
Exits with pytest's code, or with 1 when a benchmark measured nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

OPTIONS = (
    "--benchmark-only",
    "--benchmark-disable-gc",
    "--benchmark-columns=median,rounds",
)


def main(folder: Path) -> int:
    """Run the benchmarks and judge the record they left."""
    record = folder / "smoke.json"
    record.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "pytest", str(HERE), *OPTIONS]
    command += ["-o", "python_files=bench_*.py", f"--benchmark-json={record}"]
    environment = {**os.environ, "NETSTACK_BENCH_QUICK": "1"}
    code = subprocess.run(command, check=False, env=environment).returncode
    if code:
        return code
    benchmarks = json.loads(record.read_text(encoding="utf-8"))["benchmarks"]
    empty = [row["name"] for row in benchmarks if not row["stats"]["median"] > 0]
    print(f"bench: {len(benchmarks)} benchmarks, {len(empty)} without a number", *empty)
    return 0 if benchmarks and not empty else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
