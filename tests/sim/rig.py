"""A virtual machine with a kernel and nothing else, for tests of who runs when."""

from collections.abc import Callable
from typing import Any

from netstack import kern
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufPool
from netstack.kern.spl import IPL
from netstack.machine.api import Cpu, IntrHandle, Softint
from netstack.machine.costs import Cost, Costs
from netstack.machine.virtual import VirtualEngine

# Round numbers of the tests' own, so that a new estimate in costs.py moves no expected value.
FLAT = Costs(
    steps={
        "hardintr": Cost(100, ""),
        "softint": Cost(50, ""),
        "lock": Cost(10, ""),
        "lock_handoff": Cost(20, ""),
        "switch": Cost(500, ""),
        "callout": Cost(5, ""),
        "work": Cost(1, ""),
        "bridge_forward": Cost(400, ""),
    },
    line_ns=0.0,
    sibling=1.0,
)


def make(
    ncpu: int = 1,
    kernel: str = "NET_MPSAFE",
    seed: int = 1,
    costs: Costs = FLAT,
    lockdebug: bool | None = None,
    **options: Any,
) -> VirtualEngine:
    """Return a machine with its kernel attached and its trace kept."""
    pool = MbufPool(256, ncpu)
    engine = VirtualEngine(ncpu, pool, None, kernel, seed, costs, **options)
    kern.attach(engine, lockdebug)
    engine.trace(True)
    return engine


def current(engine: VirtualEngine) -> Cpu:
    """Return the CPU that runs the caller."""
    cpu = engine.curcpu()
    assert cpu is not None
    return cpu


class Device:
    """An interrupt source with a handler that logs and works for a while."""

    def __init__(
        self,
        engine: VirtualEngine,
        name: str,
        cpu: int = 0,
        ipl: int = IPL.VM,
        work: int = 0,
        softint: Softint | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        self.engine = engine
        self.log: list[tuple[int, int]] = []  # time and CPU of each interrupt
        self.work = work
        self.softint = softint
        self.then = then
        self.source = IntrSource(engine.controller)
        self.ih: IntrHandle = engine.intrs.establish(
            self.source, ipl, self._handler, name=name, cpu=cpu
        )
        self.source.enable()

    def fire(self) -> None:
        """Raise the interrupt now."""
        self.source.raise_()

    def fire_at(self, when_ns: int) -> None:
        """Raise the interrupt at a virtual time."""
        self.engine.at(when_ns, self.fire)

    def _handler(self, _: object) -> None:
        self.log.append((self.engine.now_ns(), current(self.engine).index))
        if self.work:
            self.engine.charge("work", self.work)
        if self.softint is not None:
            self.engine.softints.schedule(self.softint)
        if self.then is not None:
            self.then()
        self.source.enable()
