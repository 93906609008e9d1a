"""Two interfaces and a bridge made of compiled objects alone: what a kernel is timed on.

Frames come from a generator into a receive ring and leave into a counting sink, as in the
in-memory NICs; ``STATIONS`` addresses are learned on each side, so that a table lookup is what it
is in use.  No CPU runs: the benchmark itself is CPU 0.
"""

from netstack._fast import kernels
from netstack._fast.bridge import BridgeBlock, PortSpec
from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.ifnet import FLAG_RUNNING, FLAG_UP, IfnetBlock
from netstack._fast.intr import IntrController
from netstack._fast.mactable import MacTable
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import PSerialize
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.wire import Cable, Generator, HwRxQueue, HwTxQueue, TxPort
from netstack.rfc2544.traffic import addresses

STATIONS = 5000
FRAME_BYTES = 60
RING_SLOTS = 256
POOL_MBUFS = 32768
FAR_FUTURE_NS = 1 << 62


class Port:
    """One interface with a receive and a transmit queue and its half of a cable."""

    def __init__(self, index: int, pool: MbufPool, headers: bytes) -> None:
        self.ifp = IfnetBlock(index, bytes((2, 0, 0, 0, 0xFF, index)))
        self.rxq = RxQueue(self.ifp, pool, 0, RING_SLOTS)
        self.txq = TxQueue(self.ifp, pool, 0)
        self.hwrx = HwRxQueue(self.rxq, Cable())
        self.tx_port = TxPort(Cable())
        self.hwtx = HwTxQueue(self.txq, self.tx_port)
        self.tx_port.counting = True
        self.ifp.set_txqs([self.txq], [0])
        self.ifp.flags = FLAG_UP | FLAG_RUNNING
        self.ifp.table = "bridge"
        self.generator = Generator(headers, FRAME_BYTES)
        self.generator.start(0, FAR_FUTURE_NS, 0.0)
        self.hwrx.generator = self.generator
        for part in (self.hwrx, self.hwtx):
            part.enabled = True
        for queue in (self.rxq, self.txq):
            queue.stopping = False
        self.rxq.fill()


class KernelRig:
    """Two ports bridged; ``cpu`` is the only CPU."""

    def __init__(self) -> None:
        self.pool = MbufPool(POOL_MBUFS, 1)
        self.psz = PSerialize(1)
        self.cpu = CpuBlock(0, IntrController(1), self.pool, SoftintTable(), self.psz)
        self.table = MacTable(4 * STATIONS, 1)
        self.bridge = BridgeBlock(0, self.table, self.psz)
        sides = addresses(0, STATIONS), addresses(1, STATIONS)
        self.ports = [Port(1 + side, self.pool, _headers(sides[side], sides[1 - side])) for side in range(2)]
        for number, port in enumerate(self.ports):
            self.cpu.set_ifnet(port.ifp.index, port.ifp)
            self.bridge.attach(port.ifp, number)
            for mac in sides[number]:
                self.table.learn(mac, number, 0)
        specs = [
            PortSpec(port.ifp, "forward", True, False, False, -1, [1 - number], [1 - number])
            for number, port in enumerate(self.ports)
        ]
        self.bridge.publish(specs, True, False)

    def vector(self, count: int) -> MbufVec:
        """Return a vector of ``count`` fresh frames received on port 0."""
        mv = MbufVec(self.pool, 0)
        self.fill(mv, count)
        return mv

    def fill(self, mv: MbufVec, count: int) -> None:
        """Receive ``count`` frames on port 0 into an empty vector."""
        port = self.ports[0]
        port.hwrx.run(1)
        taken = kernels.rx_drain(self.cpu, port.rxq, mv, count)
        assert taken == count, f"received {taken} of {count} frames"

    def parsed(self, count: int) -> MbufVec:
        """Return a vector with its address keys filled in."""
        mv = self.vector(count)
        kernels.ether_parse(self.cpu, self.ports[0].ifp, mv)
        return mv

    def decided(self, count: int) -> MbufVec:
        """Return a vector that is ready to be split."""
        mv = self.parsed(count)
        decided = kernels.bridge_decide(self.cpu, self.bridge, self.ports[0].ifp, mv)
        assert decided == count
        return mv


def _headers(ours: list[bytes], theirs: list[bytes]) -> bytes:
    """Return header blocks: each of our stations sends to another of theirs."""
    count = len(ours)
    return b"".join(theirs[(7919 * index + 13) % count] + mac + b"\x08\x00\x45\x00" for index, mac in enumerate(ours))
