"""Compiled objects put together by hand: CPUs, interfaces, a bridge, and no machine.

The test itself is the CPU: it calls kernels with ``rig.cpus[i]``.
"""

from collections.abc import Sequence

from netstack._fast import kernels
from netstack._fast.bridge import BridgeBlock, PortSpec
from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.ifnet import FLAG_RUNNING, FLAG_UP, IfnetBlock
from netstack._fast.intr import IntrController, IntrSource
from netstack._fast.lock import SpinLock
from netstack._fast.mactable import MacTable
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import PSerialize
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.wire import Cable, HwRxQueue, HwTxQueue, TxPort

LIVE = FLAG_UP | FLAG_RUNNING


def own_mac(index: int) -> bytes:
    """Return the address of the interface with an index."""
    return bytes((2, 0, 0, 0, 0xFF, index))


class Nic:
    """An interface with one receive and ``tx_queues`` transmit queues, and its cable's two halves."""

    def __init__(
        self, index: int, rig: "Rig", slots: int, tx_slots: int, snd_maxlen: int, tx_queues: int
    ) -> None:
        self.ifp = IfnetBlock(index, own_mac(index))
        self.rxq = RxQueue(self.ifp, rig.pool, 0, slots)
        self.cable_in, self.cable_out = Cable(), Cable()
        self.hwrx = HwRxQueue(self.rxq, self.cable_in)
        self.tx_port = TxPort(self.cable_out)
        self.txqs = [
            TxQueue(self.ifp, rig.pool, i, tx_slots, snd_maxlen) for i in range(tx_queues)
        ]
        self.hwtxs = [HwTxQueue(txq, self.tx_port) for txq in self.txqs]
        self.txq, self.hwtx = self.txqs[0], self.hwtxs[0]
        self.source = IntrSource(rig.controller)
        self.hwrx.set_intr(self.source)
        self.rxq.set_intr(self.source)
        self.ifp.flags = LIVE
        self.ifp.set_txqs(self.txqs, [i % tx_queues for i in range(len(rig.cpus) + 1)])
        for part in (self.hwrx, *self.hwtxs):
            part.enabled = True
        for queue in (self.rxq, *self.txqs):
            queue.stopping = False
        self.rxq.fill()

    def arrive(self, frames: Sequence[bytes]) -> None:
        """Have frames come in: into descriptors as far as there are any."""
        for each in frames:
            assert self.cable_in.put(each)
        self.hwrx.run(0)


class Rig:
    """``nics`` interfaces, index 1 and up, in one bridge (port = index - 1) unless told otherwise."""

    def __init__(
        self,
        nics: int = 3,
        ncpu: int = 1,
        nmbufs: int = 2048,
        *,
        slots: int = 64,
        tx_slots: int = 64,
        snd_maxlen: int = 64,
        tx_queues: int = 1,
        maxaddr: int = 100,
        giant: bool = False,
        bridged: bool = True,
    ) -> None:
        self.pool = MbufPool(nmbufs, ncpu)
        self.controller = IntrController(ncpu)
        self.softints = SoftintTable()
        self.psz = PSerialize(ncpu)
        self.giant = SpinLock() if giant else None
        self.cpus = [
            CpuBlock(i, self.controller, self.pool, self.softints, self.psz, self.giant)
            for i in range(ncpu)
        ]
        self.cpu = self.cpus[0]
        self.nics = [
            Nic(i + 1, self, slots, tx_slots, snd_maxlen, tx_queues) for i in range(nics)
        ]
        for cpu in self.cpus:
            for nic in self.nics:
                cpu.set_ifnet(nic.ifp.index, nic.ifp)
        self.table = MacTable(maxaddr, 1)
        self.br = BridgeBlock(0, self.table, self.psz)
        if bridged:
            for port, nic in enumerate(self.nics):
                nic.ifp.table = "bridge"
                self.br.attach(nic.ifp, port)
                self.table.add_local(nic.ifp.mac, port)
            self.publish()

    def spec(self, port: int, **changes: object) -> PortSpec:
        """Return a port that learns, forwards and floods to all others."""
        others = [i for i in range(len(self.nics)) if i != port]
        plain = PortSpec(
            self.nics[port].ifp, "forward", True, False, False, -1, others, others
        )
        return plain._replace(**changes)  # type: ignore[attr-defined]

    def publish(
        self,
        changes: dict[int, dict[str, object]] | None = None,
        running: bool = True,
        forward_control: bool = False,
    ) -> object:
        """Publish the port map, with changed fields of some ports."""
        specs = [self.spec(p, **(changes or {}).get(p, {})) for p in range(len(self.nics))]
        return self.br.publish(specs, running, forward_control)

    def vector(self, frames: Sequence[bytes], port: int = 0, cpu: int = 0) -> MbufVec:
        """Return a vector of frames as received on a port."""
        mv = MbufVec(self.pool, cpu)
        mv.rcvif = self.nics[port].ifp.index
        for each in frames:
            assert mv.append(each), "the test's pool is too small"
        return mv

    def parsed(self, frames: Sequence[bytes], port: int = 0, cpu: int = 0) -> MbufVec:
        """Return such a vector with its address keys filled in."""
        mv = self.vector(frames, port, cpu)
        kernels.ether_parse(self.cpus[cpu], self.nics[port].ifp, mv)
        return mv

    def bridge(self, frames: Sequence[bytes], port: int = 0) -> dict[int, list[bytes]]:
        """Receive frames on a port of the bridge; return what each port is given to send."""
        mv = self.parsed(frames, port)
        ifp = self.nics[port].ifp
        self.psz.read_enter(0)
        kernels.bridge_decide(self.cpu, self.br, ifp, mv)
        outputs = kernels.bridge_split(self.cpu, self.br, ifp, mv)
        self.psz.read_exit(0)
        assert len(mv) == 0
        given = {index - 1: part.frames() for index, part in outputs}
        for _, part in outputs:
            part.clear()
        return given

    @property
    def in_use(self) -> int:
        """Mbufs that are neither free nor in receive rings."""
        rings = sum(nic.rxq.held for nic in self.nics)
        return self.pool.nmbufs - self.pool.free_count - rings
