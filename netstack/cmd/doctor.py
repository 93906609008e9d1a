"""``netstack doctor``: what this installation is and what the host lets it do.

Exits with 0 when the main job (``netstack rfc2544``) can run here, with 3 when something it needs
is missing, which is then named on stderr.  Privileges and real ports are reported, never required.
"""

import json
import os
import platform
import sys
from importlib import import_module, util
from importlib.resources import files
from typing import Any

import click

from netstack.cmd import hostprobe
from netstack.cmd.main import EXIT_LACKS

__all__ = ["command"]

NEEDED = ("netstack._fast", "netstack.topology", "numpy", "click", "rich", "greenlet")
EXTRAS = {"plot": "matplotlib", "real": "pyroute2", "test": "hypothesis"}


def interpreter() -> dict[str, Any]:
    """Return which Python runs and whether it has a GIL."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": "enabled" if has_gil else "disabled",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def build() -> dict[str, Any]:
    """Return how the compiled modules were built and which processor level is in use."""
    try:
        record = json.loads(files("netstack._fast").joinpath("build.json").read_text("utf-8"))
        fast = import_module("netstack._fast")
    except (ImportError, OSError) as problem:
        return {"compiled": False, "problem": str(problem)}
    level = import_module("netstack._fast.level")
    return {
        "compiled": True,
        "build": record["variant"],
        "cpu level": fast.cpu_level,
        "levels built": [name for name in level.LEVELS if level.is_built(name)],
        "levels this CPU runs": list(level.host_levels()),
        "compiler": record["compiler"],
        "flags": " ".join(record["flags"]),
        "modules": len(record["modules"]),
    }


def processor() -> dict[str, Any]:
    """Return how many CPUs there are, which may be used, and how fine the clock is."""
    return {
        "cpus": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "clock resolution ns": hostprobe.clock_resolution_ns(),
        "clock smallest step ns": hostprobe.clock_step_ns(),
        "membarrier": hostprobe.has_membarrier(),
    }


def real_ports() -> dict[str, Any]:
    """Return which ways to real interfaces are open to this process."""
    return {
        "CAP_NET_RAW": hostprobe.has_capability("CAP_NET_RAW"),
        "CAP_NET_ADMIN": hostprobe.has_capability("CAP_NET_ADMIN"),
        "/dev/net/tun": os.access("/dev/net/tun", os.R_OK | os.W_OK),
        "AF_PACKET": hostprobe.can_open_socket("AF_PACKET"),
        "AF_XDP": hostprobe.can_open_socket("AF_XDP"),
    }


def packages() -> dict[str, Any]:
    """Return which optional extras are installed."""
    return {f"extra {name}": util.find_spec(module) is not None for name, module in EXTRAS.items()}


def lacking() -> list[str]:
    """Return one line for each thing the main job needs and does not find."""
    lines = []
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as problem:
            lines.append(f"{name}: {problem}")
    return lines


def show(report: dict[str, dict[str, Any]]) -> None:
    """Print the report as a table a person can read."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for section, rows in report.items():
        table = Table(title=section, title_justify="left", show_header=False, box=None)
        for key, value in rows.items():
            table.add_row(key, readable(value))
        console.print(table)


def readable(value: Any) -> str:
    """Return a value of the report as text: yes and no for booleans, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(as_json: bool) -> int:
    """Show what this installation is and what the host allows."""
    report = {
        "interpreter": interpreter(),
        "kernels": build(),
        "processor": processor(),
        "real ports": real_ports(),
        "extras": packages(),
    }
    missing = lacking()
    if as_json:
        print(json.dumps({**report, "lacking": missing}))
    else:
        show(report)
    for line in missing:
        print(f"netstack doctor: rfc2544 cannot run: {line}", file=sys.stderr)
    return EXIT_LACKS if missing else 0
