"""The scenarios of the Python tier by name, and how a user's own function is found.

A scenario is a function without arguments on the public API, which builds its machine, lets it work
and says what must hold.  ``@scenario`` enters it here.

Context: control program.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from errno import EINVAL, ENOENT
from importlib import import_module, util
from pathlib import Path
from typing import NamedTuple

from netstack.errors import NetstackError
from netstack.explore.schedule import Scenario

__all__ = ["Entry", "find", "name_of", "scenario", "scenarios"]

MODULES = ("scenarios_kern", "scenarios_sync", "scenarios_bridge", "scenarios_control")


class Entry(NamedTuple):
    """One scenario."""

    name: str
    what: str
    ncpu: int
    run: Scenario


_ENTRIES: dict[str, Entry] = {}


def scenario(name: str, ncpu: int = 2) -> Callable[[Scenario], Scenario]:
    """Enter a function into the library; its docstring's first line is the description."""

    def enter(function: Scenario) -> Scenario:
        what = (inspect.getdoc(function) or "").partition("\n")[0]
        _ENTRIES[name] = Entry(name, what, ncpu, function)
        return function

    return enter


def scenarios() -> dict[str, Entry]:
    """Return all of the library, by name."""
    for module in MODULES:
        import_module(f"netstack.explore.{module}")
    return dict(_ENTRIES)


def name_of(function: Scenario) -> str:
    """Return the name by which a token finds a scenario again."""
    for entry in scenarios().values():
        if entry.run is function:
            return entry.name
    source = inspect.getsourcefile(function) or "?"
    path = Path(source)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path.as_posix()}:{function.__qualname__}"


def find(name: str) -> Scenario:
    """Return the scenario of a library name, or of ``path/file.py:function``.

    Raises: NetstackError: ENOENT (no such scenario, file or function), EINVAL (not a function).
    """
    known = scenarios()
    if name in known:
        return known[name].run
    path, colon, function = name.rpartition(":")
    if not colon:
        raise NetstackError(ENOENT, f"{name}: no such scenario; 'netstack explore --list' names them")
    if not Path(path).is_file():
        raise NetstackError(ENOENT, f"{path}: no such file; write path/file.py:function")
    spec = util.spec_from_file_location(f"netstack_scenario_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise NetstackError(EINVAL, f"{path} is no Python file")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if found is None:
        raise NetstackError(ENOENT, f"{path} has no function {function}")
    if not callable(found):
        raise NetstackError(EINVAL, f"{name} is not a function")
    result: Scenario = found
    return result
