"""netstack: a layer-2 network stack, NICs to bridge, in one Python process.

Layout, top to bottom; an arrow never points up (``docs/style.md``):

    cmd/        commands an operator would run        rfc2544/     the throughput test
    explore/    the schedule explorer
    topology.py assembles a machine
    net/        interfaces, Ethernet, the bridge      dev/         drivers
    hw/         models of NICs, PCI, wires            ports/       the real world's wire ends
    kern/       spl, locks, pserialize, softint       machine/     CPUs and clocks
    _fast/      compiled kernels                      params.py, errors.py  leaves

Importing this package starts no thread, opens no socket and loads nothing compiled: the public
names arrive on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netstack.errors import NetstackError
    from netstack.explore.search import replay
    from netstack.topology import Machine

    __version__: str

__all__ = ["Machine", "NetstackError", "__version__", "explore", "get_include", "replay"]

_HOME = {
    "Machine": "netstack.topology",
    "NetstackError": "netstack.errors",
    "replay": "netstack.explore.search",
}


def get_include() -> str:
    """Return the folder to pass as include directory when another package cimports netstack."""
    from pathlib import Path

    return str(Path(__file__).parent / "_fast")


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562) and keep it."""
    if name in _HOME:
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
    elif name == "explore":  # a package that can be called
        from importlib import import_module

        value = import_module("netstack.explore")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("netstack")
    else:
        raise AttributeError(f"module 'netstack' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
