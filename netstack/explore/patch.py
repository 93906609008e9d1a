"""Attributes replaced for a while and put back: by the explorer itself, and by planted mutants.

Context: the control program.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["Patch", "stack_modules"]


class Patch:
    """Replacements, undone in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace one attribute of a module or class; it must be the owner's own."""
        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def everywhere(self, old: Any, new: Any) -> None:
        """Replace a value in every module of the stack that has it under some name."""
        for module in stack_modules():
            for name, value in list(vars(module).items()):
                if value is old:
                    self.set(module, name, new)

    def undo(self) -> None:
        """Put everything back."""
        while self._undo:
            setattr(*self._undo.pop())


def stack_modules() -> list[ModuleType]:
    """Return the modules that are loaded, but for compiled ones and the explorer's own."""
    own = ("netstack.explore.", "netstack.machine.explore_", "netstack._fast.")
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("netstack.") and not f"{name}.".startswith(own)
    ]
