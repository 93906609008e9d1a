"""The schedule explorer: run a scenario under many schedules, and say which one breaks it.

    report = netstack.explore(scenario, schedules=2000, strategy="pct", seed=1)
    report.check()                        # raises with token and step-by-step listing
    netstack.replay(report.token)         # the same schedule again, to the byte

Two tiers, one form of report and token.  The *Python tier* runs ordinary functions on the public API
on the exploring machine (``machine/explore_engine.py``); decision points are every primitive, and
every atomic access inside the compiled kernels.  The *compiled tier* (``_fast/explore``) runs small
scenarios of kernel inlines on fibers, some hundred times faster.

Calling the module is calling ``explore``.  See docs/explorer.md.
"""

import sys
from types import ModuleType
from typing import Any

__all__ = ["BLIND_SPOTS", "Report", "ViolationError", "explore", "replay", "scenario"]

_HOME = {
    "BLIND_SPOTS": "report",
    "Report": "report",
    "ViolationError": "report",
    "explore": "search",
    "replay": "search",
    "scenario": "library",
}


class _Explore(ModuleType):
    """This module; it can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Explore a scenario; see ``netstack.explore.search.explore``."""
        from netstack.explore.search import explore

        return explore(*args, **kwargs)


def __getattr__(name: str) -> Any:
    """Load a name on first use: the package itself touches nothing compiled."""
    if name not in _HOME:
        raise AttributeError(f"module 'netstack.explore' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"netstack.explore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Explore
