"""Which processor level the kernels run at: ``v2`` everywhere, ``v3`` where the host has it.

The levels are those of the x86-64 psABI.  On other processors ``v2`` names the portable build, the
only one there.  The flags come from ``/proc/cpuinfo``; where that cannot be read the answer is
``v2``, which is never wrong, only slower.
"""

import os
from functools import cache
from pathlib import Path

__all__ = ["LEVELS", "LevelError", "host_levels", "is_built", "pick_level"]

LEVELS = ("v2", "v3")
VARIABLE = "NETSTACK_CPU_LEVEL"

# What v3 adds over v2; the kernel says "abm" where the psABI says LZCNT.
V3_FLAGS = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})


class LevelError(Exception):
    """NETSTACK_CPU_LEVEL asks for a level that does not exist or cannot run here."""


@cache
def host_levels() -> tuple[str, ...]:
    """Return the levels this processor can run, lowest first."""
    return LEVELS if V3_FLAGS <= _cpu_flags() else LEVELS[:1]


def is_built(level: str) -> bool:
    """Say whether an extension module of this level lies beside this file."""
    return any(Path(__file__).parent.glob(f"kernels_{level}.*.so"))


def pick_level() -> str:
    """Return the level to load: the variable's, else the highest that is built and runs here.

    Raises: LevelError -- the variable names no level, or one this processor cannot run.
    """
    asked = os.environ.get(VARIABLE, "")
    if not asked:
        return next((level for level in reversed(host_levels()) if is_built(level)), LEVELS[0])
    if asked not in LEVELS:
        raise LevelError(f"{VARIABLE}={asked}: expected one of {', '.join(LEVELS)}, or unset it")
    if asked not in host_levels():
        raise LevelError(f"{VARIABLE}={asked}: this processor cannot run it; unset it or use v2")
    return asked


def _cpu_flags() -> frozenset[str]:
    """Return the flags of the first processor in /proc/cpuinfo, or nothing."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "flags":
                    return frozenset(value.split())
    except OSError:
        pass
    return frozenset()
