"""The files of a report: rows as JSON and CSV beside the plots, with what they were measured on."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import netstack
from netstack._fast import cpu_level
from netstack.errors import EnvironmentLacksError
from netstack.rfc2544 import plots
from netstack.rfc2544.report import Row, as_csv

__all__ = ["prepare", "write"]


def prepare(folder: Path) -> None:
    """Make the folder and see that it can be written to.

    Raises: EnvironmentLacksError with the system's errno.
    """
    probe = folder / "results.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as problem:
        raise EnvironmentLacksError(
            problem.errno or 0, f"--report {folder}: {problem.strerror}; name another folder"
        ) from None


def write(rows: Sequence[Row], folder: Path, arguments: Sequence[str]) -> None:
    """Write results.json, results.csv and the four plots into the folder."""
    record = {
        "command": ["netstack", *arguments],
        "host": host(),
        "rows": [asdict(row) for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "results.csv").write_text(as_csv(rows), encoding="utf-8")
    plots.draw(rows, folder)


def host() -> dict[str, Any]:
    """Return what the rates of the wall clock depend on."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "python": platform.python_version(),
        "netstack": netstack.__version__,
        "kernels": cpu_level,
    }


def _processor() -> str:
    """Return the processor's name from /proc/cpuinfo, or what Python knows of it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
