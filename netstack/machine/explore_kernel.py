"""Decision points inside compiled kernels: hooks at atomic accesses, and who is inside.

The ``_explore`` builds of the kernels call a hook at each atomic access, and let it keep a store back
(``_fast/atomics.h``).  ``Kernels`` is what the stack sees in place of a kernel module during an
exploration: the same functions, which say when a CPU enters and leaves.

Context: the OS thread that explores.   Blind: a kernel's plain data, and modules compiled once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from netstack.machine import explore_point

__all__ = ["RELAX", "Kernels", "hooked"]

HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
STORE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)
LOAD = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int
)


def _on_access(op: int, where: int | None) -> None:
    exploration = explore_point.active()
    if exploration is not None and exploration.on_cpu is not None:
        exploration.on_cpu.access(op, where or 0)


def _on_store(where: int, value: int, nbytes: int) -> int:
    exploration = explore_point.active()
    engine = exploration.on_cpu if exploration is not None else None
    cpu = engine.curcpu() if engine is not None else None
    if engine is None or cpu is None or engine.is_closed:
        return 0
    engine.stores.store(cpu.index, where, value, nbytes)
    return 1


def _on_load(where: int, value: Any, nbytes: int) -> int:
    exploration = explore_point.active()
    engine = exploration.on_cpu if exploration is not None else None
    cpu = engine.curcpu() if engine is not None else None
    if engine is None or cpu is None:
        return 0
    kept = engine.stores.load(cpu.index, where, nbytes)
    if kept is None:
        return 0
    value[0] = kept
    return 1


def _on_relax() -> None:
    explore_point.spin("a lock")


# Made once: compiled code holds their addresses.
_ACCESS, _STORE, _LOAD = HOOK(_on_access), STORE(_on_store), LOAD(_on_load)
_RELAX = ctypes.CFUNCTYPE(None)(_on_relax)


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


# For _fast/lock.relax_with: modules compiled once have no hooks, but a spinner lets others go on.
RELAX = _address(_RELAX)


@contextmanager
def hooked(modules: list[ModuleType], is_delaying: bool) -> Iterator[None]:
    """Install the hooks in explore builds for a while."""
    store, load = (_address(_STORE), _address(_LOAD)) if is_delaying else (0, 0)
    for module in modules:
        module.explore_hooks(_address(_ACCESS), store, load)
    try:
        yield
    finally:
        for module in modules:
            module.explore_hooks(0, 0, 0)


class Kernels:
    """A kernel module as the stack sees it while an exploration is under way."""

    def __init__(self, module: ModuleType) -> None:
        self.__dict__.update(vars(module))
        self.module = module
        for name, value in vars(module).items():
            if callable(value) and not name.startswith("_") and name != "explore_hooks":
                if not isinstance(value, type):
                    self.__dict__[name] = _told(name, value)


def _told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel function that says when a CPU enters it and leaves it."""

    def told(*args: Any) -> Any:
        exploration = explore_point.active()
        engine = exploration.on_cpu if exploration is not None else None
        if engine is None:
            return function(*args)
        engine.point(name)
        bit = engine.kernel_begins(name)
        try:
            return function(*args)
        finally:
            engine.kernel_ends(bit)

    told.__name__ = name
    return told
