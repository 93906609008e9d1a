"""Actors in every context on either machine, for tests of what excludes whom."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sim.rig import FLAT

from netstack import kern
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufPool
from netstack.machine.virtual import VirtualEngine
from netstack.machine.wall import WallEngine

PATIENCE_S = 60.0  # a hang, not a slow host


def engine_of(clock: str, ncpu: int = 1, kernel: str = "NET_MPSAFE", seed: int = 1) -> Any:
    """Return a machine of either clock with its kernel attached."""
    pool = MbufPool(256, ncpu)
    engine: Any
    if clock == "virtual":
        engine = VirtualEngine(ncpu, pool, None, kernel, seed, FLAT)
    else:
        engine = WallEngine(ncpu, pool, None, kernel, seed, pin=False)
    kern.attach(engine)
    if clock == "virtual":
        engine.trace(True)
    return engine


class Actors:
    """A machine, and work for its threads, softints and interrupts that is counted."""

    def __init__(
        self, clock: str, ncpu: int = 1, kernel: str = "NET_MPSAFE", seed: int = 1
    ) -> None:
        self.engine = engine_of(clock, ncpu, kernel, seed)
        self.is_wall = clock == "wall"
        self.done: list[str] = []
        self.errors: list[BaseException] = []
        self._due: list[Callable[[], bool]] = []
        self._keep: list[object] = []

    def work(self, ns: int) -> None:
        """Pass time: in virtual nanoseconds; on the wall machine, let others have the interpreter."""
        if self.is_wall:
            time.sleep(0)
        else:
            self.engine.charge("work", ns)

    def thread(self, fn: Callable[[], object], cpu: int = 0, name: str = "") -> Any:
        """Start a kernel thread; what it returns, if a list, counts."""

        def run() -> None:
            result = fn()
            self.done.extend(["thread"] * (len(result) if isinstance(result, list) else 1))

        lwp = self.engine.spawn(run, cpu=cpu, name=name)
        self._due.append(lambda: lwp.is_done)
        return lwp

    def softint(self, level: str, fn: Callable[[], object], cpu: int, times: int = 1) -> Any:
        """Have a softint run so often, one after the other."""
        left = times

        def handler(_: object) -> None:
            nonlocal left
            fn()
            self.done.append("soft")
            left -= 1
            if left > 0:
                self.engine.softints.schedule_cpu(si, cpu)

        si = self.engine.softints.establish(level, handler, name=f"{level} of CPU {cpu}")
        self.engine.softints.schedule_cpu(si, cpu)
        self._due.append(lambda: left <= 0)
        return si

    def interrupt(self, ipl: int, fn: Callable[[], object], cpu: int, times: int = 1) -> IntrSource:
        """Have a hard interrupt come so often, one after the other."""
        left = times
        source = IntrSource(self.engine.controller)

        def handler(_: object) -> None:
            nonlocal left
            fn()
            self.done.append("hard")
            left -= 1
            source.enable()
            if left > 0:
                source.raise_()

        name = f"dev{len(self._keep)}"
        self._keep.append(source)
        self.engine.intrs.establish(source, ipl, handler, name=name, cpu=cpu)
        source.enable()
        source.raise_()
        self._due.append(lambda: left <= 0)
        return source

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the machine work until a condition holds."""
        if not self.is_wall:
            self.engine.run()
            assert condition()
            return
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "a hang"
            self.engine.run(seconds=0.002)

    def finish(self) -> int:
        """Let all actors finish; return how many sections were done."""
        self.until(lambda: all(is_done() for is_done in self._due))
        return len(self.done)

    def __enter__(self) -> "Actors":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.close()
