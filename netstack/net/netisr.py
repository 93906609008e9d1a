"""The border to what is above layer 2: protocol handlers, a queue for what is sent (paper §2.1).

In:  ``ether_demux`` brings frames for this machine, in a softint on the CPU that received them.  A
     frame goes to the interface's ``recv`` list while that listens, and to the handlers of its
     ethertype.  (The queue in front of that softint is the kernels' punt ring.)
Out: a control thread is no CPU and may not touch a send queue; what it sends waits here for CPU 0.

One object per machine, made with it.  Limits: ``NETISR_MAXLEN_FRAMES`` frames wait to be sent.
Source: paper §2.1; NetBSD netisr.h, pktqueue.
"""

from collections import deque
from collections.abc import Callable
from errno import EEXIST, ENOBUFS, ENOENT
from typing import TypeAlias

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.mbuf import MbufVec
from netstack.errors import NetstackError
from netstack.kern.mutex import Mutex
from netstack.machine.api import Cpu
from netstack.net.ifnet import IFF, Ifnet, PathSlot, Stack
from netstack.params import NETISR_MAXLEN_FRAMES

__all__ = ["Handler", "Netisr"]

Handler: TypeAlias = Callable[[Ifnet, list[bytes]], None]

ETHERTYPE_AT = slice(12, 14)


class Netisr:
    """Protocol handlers and the send queue of one machine, and the lock of its interfaces.

    ``ifnet_lock`` serialises control operations on interfaces and bridges (NetBSD IFNET_LOCK).
    """

    def __init__(self, machine: Stack) -> None:
        self._machine = machine
        self._handlers: dict[int | None, Handler] = {}
        self._output: deque[tuple[PathSlot, Ifnet, bytes]] = deque()
        self.ifnet_lock = Mutex(machine.engine, "ifnet")
        softints = machine.engine.softints
        self._softint = softints.establish("net", self._run_output, name="netisr send")

    def register(self, ethertype: int | None, handler: Handler) -> None:
        """Call ``handler(ifp, frames)`` for frames to this machine; None: for every ethertype.

        Raises: NetstackError(EEXIST) when the ethertype has a handler.
        """
        if ethertype in self._handlers:
            raise NetstackError(EEXIST, f"{_shown(ethertype)} has a handler; unregister it first")
        self._handlers[ethertype] = handler
        self._write_flags()

    def unregister(self, ethertype: int | None) -> None:
        """Take a handler away.  Raises: NetstackError(ENOENT) when there is none."""
        if self._handlers.pop(ethertype, None) is None:
            raise NetstackError(ENOENT, f"{_shown(ethertype)} has no handler")
        self._write_flags()

    @property
    def has_handlers(self) -> bool:
        """Whether any protocol wants frames."""
        return bool(self._handlers)

    def input(self, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
        """Hand frames for this machine to who wants them.

        Context:  softint, on the receiving CPU.
        Consumes: every mbuf in ``mv``.
        Order:    kept per interface and CPU.
        Outcome:  delivered, or dropped as ``no_proto``: nobody wants it.
        """
        is_heard = IFF.LISTEN in ifp.flags
        if not is_heard and None not in self._handlers:
            mv = self._claimed(ifp, mv, cpu)
        frames = kernels.ether_deliver(cpu.block, ifp.block, mv)
        if is_heard:
            ifp.keep(frames)
        if frames and self._handlers:
            self._dispatch(ifp, frames)

    def post(self, output: PathSlot, ifp: Ifnet, frame: bytes) -> None:
        """Queue a frame of a control thread; CPU 0 calls ``output(ifp, frame, cpu)``.

        Raises: NetstackError(ENOBUFS) when the queue is full.
        """
        if len(self._output) >= NETISR_MAXLEN_FRAMES:
            text = f"{ifp.name}: {NETISR_MAXLEN_FRAMES} frames wait to be sent; run the machine"
            raise NetstackError(ENOBUFS, text)
        self._output.append((output, ifp, frame))
        self._machine.engine.softints.schedule_cpu(self._softint, 0)

    def _write_flags(self) -> None:
        for ifp in self._machine.interfaces.values():
            ifp.write_flags()

    def _claimed(self, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> MbufVec:
        """Drop as ``no_proto`` what has no handler; return the rest, in order."""
        frames = mv.frames()
        wanted = [_ethertype(frame) in self._handlers for frame in frames]
        if all(wanted):
            return mv
        if not any(wanted):
            kernels.drop(cpu.block, ifp.block, mv, Drop.NO_PROTO)
            return mv
        mv.clear()  # its mbufs serve the vector below
        kept = MbufVec(self._machine.pool, cpu.index)
        for frame, is_wanted in zip(frames, wanted, strict=True):
            if not is_wanted:
                ifp.block.count_drop(cpu.index, Drop.NO_PROTO)
            elif not kept.append(frame):
                ifp.block.count_drop(cpu.index, Drop.NO_MBUF)
        return kept

    def _dispatch(self, ifp: Ifnet, frames: list[bytes]) -> None:
        """Give each run of equal ethertype to its handler, so that frames keep their order."""
        for_all = self._handlers.get(None)
        if for_all is not None:
            for_all(ifp, frames)
        start = 0
        for end in range(1, len(frames) + 1):
            ethertype = _ethertype(frames[start])
            if end < len(frames) and _ethertype(frames[end]) == ethertype:
                continue
            handler = self._handlers.get(ethertype)
            if handler is not None:
                handler(ifp, frames[start:end])
            start = end

    def _run_output(self, _arg: object) -> None:
        """Softint on CPU 0: send what control threads left."""
        cpu = self._machine.engine.curcpu()
        assert cpu is not None, "a softint runs on a CPU"
        for _ in range(len(self._output)):
            output, ifp, frame = self._output.popleft()
            try:
                output(ifp, frame, cpu)
            except NetstackError:  # no mbuf left, and the sender is gone
                ifp.block.count_originated(cpu.index, 1)
                ifp.block.count_drop(cpu.index, Drop.NO_MBUF)


def _ethertype(frame: bytes) -> int:
    return int.from_bytes(frame[ETHERTYPE_AT], "big")


def _shown(ethertype: int | None) -> str:
    return "the handler for all" if ethertype is None else f"ethertype 0x{ethertype:04x}"
