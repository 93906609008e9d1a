"""A machine without devices: interfaces whose frames are fed to the stages and taken off by hand.

What the drivers do is left out, so that a test of ``netstack/net`` speaks of that folder alone.
"""

from collections.abc import Sequence

from netstack import kern
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack.machine.api import Cpu
from netstack.machine.virtual import VirtualEngine
from netstack.net.bridge_ctl import Bridge
from netstack.net.ether import ether_demux, ether_ifattach
from netstack.net.ifnet import IFF, Ifnet
from netstack.net.netisr import Netisr


def mac(number: int) -> bytes:
    """Return a station's address; the interfaces' own are ``mac(0x8000 + index)``."""
    return bytes.fromhex("02000000") + number.to_bytes(2, "big")


def frame(dst: bytes, src: bytes, ethertype: int = 0x0800, size: int = 60) -> bytes:
    """Return a frame of ``size`` bytes, numbered by nothing: compare whole."""
    return (dst + src + ethertype.to_bytes(2, "big")).ljust(size, b"\0")


class StageMachine:
    """What ``net.ifnet.Stack`` asks for, on a virtual engine; ``sent[name]`` is what left."""

    def __init__(self, *names: str, ncpu: int = 1, nmbufs: int = 1024, seed: int = 1) -> None:
        self.seed = seed
        self.pool = MbufPool(nmbufs, ncpu)
        self.engine = VirtualEngine(ncpu, self.pool, seed=seed)
        kern.attach(self.engine)
        self.interfaces: dict[str, Ifnet] = {}
        self.ifnet_by_index: dict[int, Ifnet] = {}
        self.bridges: dict[str, Bridge] = {}
        self.netisr = Netisr(self)
        self.sent: dict[str, list[bytes]] = {}
        softints = self.engine.softints
        self._punt = softints.establish("net", self._drain_punts, name="punt")
        self._work = softints.establish("net", self._feed, name="feed")
        self._todo: list[tuple[Ifnet, list[bytes]]] = []
        for cpu in self.engine.cpus:
            cpu.block.punt_softint = self._punt.handle
        for name in names:
            self.attach(name)

    def attach(self, name: str, mtu: int = 1500, address: bytes | None = None) -> Ifnet:
        """Make an interface that is up and runs."""
        index = len(self.interfaces) + 1
        ifp = Ifnet(self, name, index, address or mac(0x8000 + index), mtu)
        ether_ifattach(ifp)
        ifp.set_transmit(self._collect)
        ifp.flags |= IFF.UP | IFF.RUNNING
        self.interfaces[name] = self.ifnet_by_index[index] = ifp
        self.sent[name] = []
        for cpu in self.engine.cpus:
            cpu.block.set_ifnet(index, ifp.block)
        return ifp

    def bridge(self, *names: str, **settings: int) -> Bridge:
        """Make bridge0 of some interfaces."""
        br = Bridge(self, "bridge0", 0, names, **settings)
        self.bridges["bridge0"] = br
        return br

    def receive(self, ifp: Ifnet, frames: Sequence[bytes] | bytes) -> None:
        """Have CPU 0 receive frames as one vector, and run until idle."""
        frames = [frames] if isinstance(frames, bytes) else list(frames)
        self._todo.append((ifp, frames))
        self.engine.softints.schedule_cpu(self._work, 0)
        self.engine.run()

    def drops(self) -> dict[str, int]:
        """Return all losses of all interfaces by name."""
        total: dict[str, int] = {}
        for ifp in self.interfaces.values():
            for name, count in ifp.block.drops().items():
                total[name] = total.get(name, 0) + count
        return total

    def _feed(self, _arg: object) -> None:
        cpu = self.engine.curcpu()
        while self._todo:
            ifp, frames = self._todo.pop(0)
            mv = MbufVec(self.pool, cpu.index)
            mv.rcvif = ifp.index
            for each in frames:
                assert mv.append(each), "the test's pool is too small"
            ifp.if_input(ifp, mv, cpu)
            assert len(mv) == 0, "a stage consumes its vector"

    def _drain_punts(self, _arg: object) -> None:
        cpu = self.engine.curcpu()
        mv = MbufVec(self.pool, cpu.index)
        while kind := cpu.block.punt_take(mv):
            assert kind == "local"
            ether_demux(self.ifnet_by_index[mv.rcvif], mv, cpu)

    def _collect(self, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
        self.sent[ifp.name] += mv.frames()
        mv.clear()
