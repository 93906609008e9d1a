"""What changes in the stack while an exploration is under way, and is put back after it.

The stack looks its parts up in its modules.  ``swapped`` replaces there, for this process and a while,

* the virtual engine by the exploring one,
* the kernels by their ``_explore`` builds, which can have hooks at every atomic access,
* classes that are compiled once by subclasses whose calls are decision points (``POINTS``),
* sizes that only cost time: rings of 16 slots, a pool of 2048 mbufs where the default was asked for.

Nothing of this is in the way outside an exploration.  Context: the control program, one OS thread; no
other machine may work in the process meanwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from netstack._fast import chain, kernels, lock
from netstack.explore.patch import Patch, stack_modules
from netstack.kern.pserialize import StallWarning
from netstack.machine import explore_kernel, explore_point
from netstack.machine.explore_engine import ExploringEngine

__all__ = ["BUILDS", "POINTS", "PYTHON_POINTS", "swapped"]

kernels_explore = import_module("netstack._fast.kernels_explore")
chain_explore = import_module("netstack._fast.chain_explore")
BUILDS = [kernels_explore, chain_explore]

RING_SLOTS = 16
POOL_MBUFS = 2048

# Compiled once: each call is one step, and others may go on before it.
POINTS: dict[str, dict[str, tuple[str, ...]]] = {
    "netstack._fast.lock": {"SpinLock": ("try_enter", "exit")},
    "netstack._fast.pserialize": {
        "PSerialize": ("read_enter", "read_exit", "perform_begin"),
    },
    "netstack._fast.mactable": {"MacTable": ("*",)},
    "netstack._fast.macchain": {"ChainTable": ("*",)},
    "netstack._fast.bridge": {"BridgeBlock": ("publish", "set_table", "attach", "detach")},
    "netstack._fast.cpu": {
        "CpuBlock": (
            "softint_schedule",
            "softint_post_remote",
            "bind",
            "unbind",
            "punt_take",
        ),
    },
    "netstack._fast.intr": {"IntrSource": ("raise_", "enable", "disable", "mask", "unmask", "route")},
    "netstack._fast.pcq": {"ObjectPcq": ("put", "get", "peek")},
}

# Written in Python: a call is a step of its own, and what it calls are further ones.
PYTHON_POINTS: dict[str, dict[str, tuple[str, ...]]] = {
    "netstack.kern.psref": {"PsrefTarget": ("acquire", "destroy"), "Psref": ("release",)},
    "netstack.net.ifnet": {"Ifnet": ("set_input",)},
}


@contextmanager
def swapped() -> Iterator[None]:
    """Let machines made in this process be exploring ones, for a ``with`` block."""
    import_module("netstack.topology")  # all that is looked up has to be there
    patch = Patch()
    with ExitStack() as stack:
        stack.callback(patch.undo)
        _swap_engine(patch)
        _swap_kernels(patch)
        for module_name, classes in POINTS.items():
            _swap_classes(patch, module_name, classes)
        for module_name, classes in PYTHON_POINTS.items():
            _swap_methods(patch, module_name, classes)
        _swap_sizes(patch)
        lock.relax_with(explore_kernel.RELAX)
        stack.callback(lock.relax_with, 0)
        stack.enter_context(warnings.catch_warnings())
        # machine time jumps to the next event: a grace period may seem to take long
        warnings.simplefilter("ignore", StallWarning)
        yield


def _swap_engine(patch: Patch) -> None:
    from netstack import topology
    from netstack.machine.virtual import VirtualEngine

    def engine(*args: Any, **kwargs: Any) -> VirtualEngine:
        exploration = explore_point.active()
        if exploration is None:
            return VirtualEngine(*args, **kwargs)
        return ExploringEngine(exploration, *args, **kwargs)

    patch.set(topology, "VirtualEngine", engine)
    close, spawn = topology.Machine.close, topology.Machine.spawn

    def closing(machine: topology.Machine) -> None:
        exploration = explore_point.active()
        if exploration is not None and not machine._is_closed:
            exploration.states.append(repr(machine.stats()))
        close(machine)

    def spawning(machine: topology.Machine, *args: Any, **kwargs: Any) -> Any:
        lwp = spawn(machine, *args, **kwargs)
        if isinstance(machine.engine, ExploringEngine):
            machine.engine.threads.append(lwp)  # type: ignore[arg-type]
        return lwp

    patch.set(topology.Machine, "close", closing)
    patch.set(topology.Machine, "spawn", spawning)


def _swap_kernels(patch: Patch) -> None:
    from netstack import _fast

    for name, old, build in (("kernels", kernels, kernels_explore), ("chain", chain, chain_explore)):
        new = explore_kernel.Kernels(build)
        patch.everywhere(old, new)
        patch.set(_fast, name, new)  # for modules that are imported meanwhile


def _swap_classes(patch: Patch, module_name: str, classes: dict[str, tuple[str, ...]]) -> None:
    try:
        module = import_module(module_name)
    except ImportError:
        return
    for class_name, methods in classes.items():
        old = getattr(module, class_name, None)
        if old is None:
            continue
        found: dict[str, Callable[..., Any]] = {
            name: explore_point.before(f"{class_name}.{name}", getattr(old, name))
            for name in (_public(old) if methods == ("*",) else methods)
            if hasattr(old, name)
        }
        if class_name == "SpinLock":
            found["enter"] = _spin_enter
        patch.everywhere(old, type(class_name, (old,), {"__slots__": (), **found}))


def _public(owner: type) -> list[str]:
    return [name for name, value in vars(owner).items() if callable(value) and name[0] != "_"]


def _swap_methods(patch: Patch, module_name: str, classes: dict[str, tuple[str, ...]]) -> None:
    module = import_module(module_name)
    for class_name, methods in classes.items():
        owner = getattr(module, class_name)
        for name in methods:
            if name in vars(owner):
                what = f"{class_name}.{name}"
                patch.set(owner, name, explore_point.before(what, vars(owner)[name]))


def _spin_enter(word: lock.SpinLock) -> None:
    """Take a spin lock of Python callers; who finds it held lets others go on."""
    explore_point.point("SpinLock.enter")
    while not lock.SpinLock.try_enter(word):
        if not explore_point.spin("a spin lock"):
            lock.SpinLock.enter(word)
            return


def _swap_sizes(patch: Patch) -> None:
    from netstack import params, topology
    from netstack._fast.mbuf import MbufPool

    def pool(mbufs: int, ncpu: int) -> MbufPool:
        return MbufPool(POOL_MBUFS if mbufs == params.MBUFS_DEFAULT else mbufs, ncpu)

    patch.set(topology, "MbufPool", pool)
    for module in stack_modules():
        for name in ("WM_RX_SLOTS", "WM_TX_SLOTS"):
            if name in vars(module) and module is not params:
                patch.set(module, name, RING_SLOTS)
