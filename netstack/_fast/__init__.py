"""Compiled kernels: mechanism without policy; imports nothing from the rest of netstack.

Most modules exist once.  ``kernels`` and ``chain`` are compiled once per processor level
(``kernels_v2``, ``kernels_v3``, ...); importing this package picks one level and makes its modules
known as ``netstack._fast.kernels`` and ``netstack._fast.chain``.  ``NETSTACK_CPU_LEVEL=v2`` or
``v3`` overrides the choice.  The ``_explore`` builds are imported by name where they are wanted.

``cpu_level`` is the level that was picked.
"""

import sys
from importlib import import_module

from netstack._fast.level import LevelError, pick_level

__all__ = ["cpu_level"]

_LEVELLED = ("kernels", "chain")


def _load() -> str:
    """Pick the level, load its modules, register them under their plain names."""
    try:
        level = pick_level()
        for stem in _LEVELLED:
            name = f"{__name__}.{stem}"
            module = import_module(f"{name}_{level}")
            sys.modules[name] = module
            globals()[stem] = module
    except LevelError as problem:
        raise ImportError(str(problem), name=__name__) from None
    except ModuleNotFoundError as problem:
        if not (problem.name or "").startswith(f"{__name__}."):
            raise
        raise ImportError(
            f"netstack's compiled modules are not built for this interpreter ({problem.name} is "
            "missing). In a checkout run 'pip install -e .', or 'pip install .' and start Python "
            "from another folder.",
            name=__name__,
        ) from None
    return level


cpu_level: str = _load()
