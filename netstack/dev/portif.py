"""Driver of real-world ports: no registers, else the queues and softints of any NIC (paper §3.3).

A port (``netstack.ports``) brings an engine per queue; readiness of a receive engine's descriptor
is that queue's interrupt.  Frames are sent by ``if_start`` in the caller's context, so there is no
transmit interrupt.

A watchdog looks at the port once a second, in a thread: an interface that goes down or comes back
on the host does so here; one that is gone stays down, and ``state`` says so.  The host enforces its
own MTU: a frame too long for it is dropped as ``tx_error``.
"""

from typing import Any, Protocol

from netstack._fast import chain
from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrSource
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.txq_select import txq_select
from netstack.dev.harddrv import harddrv_attach
from netstack.dev.host import DriverHost
from netstack.dev.queues import RxRing
from netstack.dev.softdrv import softdrv_attach, softdrv_detach
from netstack.kern.workqueue import Periodic
from netstack.net.ifnet import IFF, Ifnet
from netstack.params import IFQ_MAXLEN_FRAMES

__all__ = ["Port", "PortDriver", "attach"]

UP = "up"
DOWN = "down"
GONE = "gone"

WATCH_PERIOD_S = 1.0
RING_SLOTS = 8  # descriptors of a ring that is there but not used
FRAME_BYTES_MAX = 65536 + 18  # what the host may hand over: its MTU is not ours to enforce


class Port(Protocol):
    """What the driver needs of a port; the engines are those of ``_fast.hostport``."""

    name: str
    kind: str
    receivers: list[Any]
    transmitters: list[Any]

    @property
    def missed(self) -> int:
        """Frames the host dropped before this process could take them."""

    def state(self) -> str:
        """``up``, ``down`` or ``gone``, as the host has it now."""

    def clear_errors(self) -> None:
        """Let the engines try again."""

    def close(self) -> None:
        """Give all descriptors back; harmless when repeated."""


def attach(host: DriverHost, ifp: Ifnet, port: Port) -> "PortDriver":
    """Build the driver of a port and start it; the driver closes the port in the end.

    Context: control plane.   Raises: what the registries raise; the port is closed then.
    """
    try:
        driver = PortDriver(host, ifp, port)
    except BaseException:
        port.close()
        raise
    driver.init()
    return driver


class PortDriver:
    """One attached port.  ``state`` is what the watchdog saw last."""

    def __init__(self, host: DriverHost, ifp: Ifnet, port: Port) -> None:
        self.host = host
        self.ifp = ifp
        self.port = port
        self.state = DOWN
        self._is_stopped = True
        self._watched: dict[int, int] = {}  # descriptor -> CPU whose loop watches it
        self.rx: list[RxRing] = []
        self.tx: list[TxQueue] = []
        controller = host.engine.controller
        for i, engine in enumerate(port.receivers):
            queue = RxQueue(ifp.block, host.pool, i, RING_SLOTS)
            engine.bind_rx(queue)
            self.rx.append(RxRing(host, ifp, queue, IntrSource(controller)))
        for i, engine in enumerate(port.transmitters):
            out = TxQueue(ifp.block, host.pool, i, RING_SLOTS, IFQ_MAXLEN_FRAMES)
            engine.bind_tx(out)
            self.tx.append(out)
        ifp.driver = self
        ifp.rx_queues = [ring.queue for ring in self.rx]
        ifp.tx_queues = list(self.tx)
        ifp.block.set_txqs(self.tx, txq_select(host.ncpu, len(self.tx), {}))
        ifp.block.maxlen = FRAME_BYTES_MAX
        self._watchdog = Periodic(host.engine, WATCH_PERIOD_S, self.check, f"{ifp.name} watchdog")
        try:
            self._establish()
        except BaseException:
            self._disestablish()
            raise

    def init(self) -> None:
        """Start: flags, interrupts, watchdog; RUNNING when the host's interface is up.

        Context: control plane.
        """
        for ring in self.rx:
            ring.queue.limit = self.host.drain_frames(256)
            ring.queue.stopping = False
        for out in self.tx:
            out.stopping = False
        self._is_stopped = False
        self.check()
        for ring in self.rx:
            ring.source.enable()
        self._watchdog.start()

    def check(self) -> str:
        """Look at the host's interface, follow what has changed, return the state.

        Context: thread or control thread; waits for a grace period when something has.
        """
        if self._is_stopped or self.state == GONE:
            return self.state
        now = self.port.state()
        if now == UP:
            self.port.clear_errors()  # of a short time down that nobody saw
        if now != self.state:
            self.state = now
            if now == GONE:
                self._unwatch()
            is_running = bool(self.ifp.flags & IFF.RUNNING)
            if is_running != (now == UP):
                self.ifp.flags ^= IFF.RUNNING
        if now != GONE:
            self._watch()
        return now

    def stop_receiving(self) -> None:
        """Take no more frames from the host, look at it no more; what is under way still goes out.

        Context: control plane; waits for handlers.
        """
        if self._is_stopped:
            return
        self._is_stopped = True
        self._watchdog.stop()
        for ring in self.rx:
            ring.source.disable()
            ring.queue.stopping = True
        self._unwatch()
        self._pass_all()

    def stop(self) -> None:
        """Stop: on return no frame of the port is delivered or sent.

        Context: control plane; waits for handlers.
        Source:  paper §3.2.1: the flags first.
        """
        self.stop_receiving()
        self.ifp.flags &= ~IFF.RUNNING
        for out in self.tx:
            out.stopping = True
        self._pass_all()
        for out in self.tx:
            self.ifp.block.count_drop(self.host.ncpu, Drop.STOPPED, out.purge())

    def _pass_all(self) -> None:
        """Return when every CPU has been between two handlers."""
        for cpu in self.host.engine.cpus:
            self.host.engine.cross_call(cpu.index, _nothing)

    def detach(self) -> None:
        """Stop and take everything back: handlers, vectors, the port."""
        self.stop()
        self._disestablish()
        self.port.close()

    def close(self) -> None:
        """The machine has ended, its CPUs are at rest: give the port back."""
        self._is_stopped = True
        self.port.close()

    @property
    def missed(self) -> int:
        """Frames the host dropped before this machine could take them."""
        return self.port.missed

    def watching(self) -> dict[int, int]:
        """Return the CPU that watches the descriptor of each receive queue."""
        fds = {engine.fd: index for index, engine in enumerate(self.port.receivers)}
        return {fds[fd]: cpu for fd, cpu in self._watched.items() if fd in fds}

    def _establish(self) -> None:
        name, cpus = self.ifp.name, self.host.ncpu
        is_classic = self.host.frame == "classic"
        for ring in self.rx:
            i = ring.queue.index
            establish = harddrv_attach if is_classic else softdrv_attach
            # one receive queue each: interfaces are spread over the CPUs
            cpu = (self.ifp.index - 1 + i) % cpus
            establish(ring, f"{name} RX{i}", f"{self.port.kind} {name} {i}", cpu)

    def _disestablish(self) -> None:
        for ring in self.rx:
            softdrv_detach(ring)

    def _watch(self) -> None:
        """Have the CPU that takes a queue's interrupt watch its descriptor: intrctl may move it."""
        for ring in self.rx:
            fd = self.port.receivers[ring.queue.index].fd
            assert ring.handle is not None
            cpu = ring.handle.cpu
            if fd < 0 or self._watched.get(fd) == cpu:
                continue
            self._forget(fd)
            self._call(cpu, lambda c, fd=fd, ring=ring: chain.watch(c.block, fd, ring.source))
            self._watched[fd] = cpu

    def _unwatch(self) -> None:
        for fd in list(self._watched):
            self._forget(fd)

    def _forget(self, fd: int) -> None:
        cpu = self._watched.pop(fd, None)
        if cpu is not None:
            self._call(cpu, lambda c: chain.unwatch(c.block, fd))

    def _call(self, index: int, fn: Any) -> None:
        cpu = self.host.engine.cpus[index]
        self.host.engine.cross_call(index, lambda: fn(cpu))

    def __repr__(self) -> str:
        return f"<PortDriver {self.port!r} {self.state}>"


def _nothing() -> None:
    """Work of a cross-call that only waits."""
