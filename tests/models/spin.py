"""Runs SPIN on one model with some macros set: translate, compile, search every state.

A result is exact or an error: a search that was cut off (depth, memory, time) raises.
"""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODELS", "SpinError", "Verdict", "check", "missing_tools"]

MODELS = Path(__file__).parents[2] / "models"
TIMEOUT_S = 300
DEPTH = 100_000
MEMORY_MIB = 3000
CUT_OFF = ("max search depth too small", "out of memory", "reached -DMEMLIM")


class SpinError(Exception):
    """The model does not translate or compile, or the search did not end."""


@dataclass(frozen=True)
class Verdict:
    """What a search found: "" as ``violation`` means that nothing is wrong in any reachable state."""

    violation: str
    states: int
    depth: int
    seconds: float
    trail: str  # the steps to the violation

    def __str__(self) -> str:
        return f"{self.states} states, depth {self.depth}, {self.seconds:.2f} s"


def missing_tools() -> str:
    """Return the names of the programs that are not there."""
    return " ".join(name for name in ("spin", "gcc") if shutil.which(name) is None)


def check(model: str, macros: tuple[str, ...] = (), *, optimize: str = "-O1") -> Verdict:
    """Search the state space of ``models/<model>.pml`` with macros such as ``"SWITCH"`` or ``"ITEMS=2"``.

    Raises: SpinError.
    """
    defines = [f"-D{macro}" for macro in macros]
    with tempfile.TemporaryDirectory(prefix="spin-") as name:
        folder = Path(name)
        for source in MODELS.iterdir():
            shutil.copy(source, folder)
        run(folder, "spin", "-a", *defines, f"{model}.pml")
        run(folder, "gcc", optimize, "-w", "-DSAFETY", f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c")
        output = run(folder, "./pan", f"-m{DEPTH}", "-n")
        if any(sign in output for sign in CUT_OFF):
            raise SpinError(f"{model} {macros}: the search was cut off\n{output}")
        found = re.search(r"pan:1: (.*?) \(at depth", output)
        errors = number(r"errors: (\d+)", output)
        if (found is None) != (errors == 0):
            raise SpinError(f"{model} {macros}: cannot read this\n{output}")
        trail = ""
        if found is not None:
            trail = run(folder, "spin", "-t", "-p", "-g", *defines, f"{model}.pml", ok=(0, 1))
        return Verdict(
            violation=found.group(1).strip() if found else "",
            states=int(number(r"(\d+) states, stored", output)),
            depth=int(number(r"depth reached (\d+)", output)),
            seconds=number(r"elapsed time ([\d.e+-]+)", output),
            trail=trail,
        )


def number(pattern: str, output: str) -> float:
    """Return the number that ``pattern`` finds."""
    found = re.search(pattern, output)
    if found is None:
        raise SpinError(f"no {pattern!r} in\n{output}")
    return float(found.group(1))


def run(folder: Path, *command: str, ok: tuple[int, ...] = (0,)) -> str:
    """Run a program there and return what it printed."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise SpinError(f"{' '.join(command)}: not done after {TIMEOUT_S} s") from late
    output = done.stdout + done.stderr
    if done.returncode not in ok or "syntax error" in output:
        raise SpinError(f"{' '.join(command)}: exit {done.returncode}\n{output}")
    return output
