"""Assembly: the machine with its CPUs, NICs, ports and bridges; the public face (design of the package).

This is the only file that knows drivers, device models, the network layer and the engines at once.

Context: control threads.  Every method may sleep; none may be called from a handler.
"""

from collections.abc import Callable, Iterable
from errno import EEXIST, EINVAL, ENOBUFS, ENOSYS, ENXIO
from importlib import import_module
from shlex import split
from types import TracebackType
from typing import Any

from netstack import audit as _audit
from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import STRATEGIES, membarrier_available
from netstack.dev.pci import PciAttachArgs
from netstack.dev.pci_chipset import PciChipset
from netstack.dev.pci_intr import TYPES, IntrType
from netstack.dev.vioif import VioifDriver, vioif_memory_bytes
from netstack.dev.wm import WmDriver
from netstack.errors import EnvironmentLacksError, NetstackError
from netstack.hw.dma import DmaMap
from netstack.hw.pci_host import PciHost
from netstack.hw.vioif import VioifModel
from netstack.hw.virtq_regs import SharedMemory
from netstack.hw.wm import WmModel
from netstack.kern import attach
from netstack.kern.intrctl import IntrCtl
from netstack.machine.api import Engine, Lwp
from netstack.machine.costs import Costs
from netstack.machine.virtual import VirtualEngine
from netstack.machine.wall import WallEngine
from netstack.net.bridge import bridge_intr, bridge_resume
from netstack.net.bridge_ctl import Bridge
from netstack.net.ether import ether_demux, ether_ifattach
from netstack.net.ifnet import Ifnet
from netstack.net.netisr import Netisr
from netstack.params import (
    CPU_MAX,
    DRAIN_BURST_FRAMES,
    MBUFS_DEFAULT,
    MBUFS_PER_QUEUE_SPARE,
    WIRE_LIMIT_FRAMES,
    WM_QUEUES_MAX,
    WM_RX_SLOTS,
)

__all__ = ["Machine"]

FRAMES = ("softint", "classic")
PATHS = ("compiled", "stages")
MODELS = ("wm", "vioif")
TOOLS = ("brconfig", "ifconfig", "intrctl")
WHOLE_RING = 1 << 30  # classic frame: until nothing is left, however much arrives meanwhile


class Machine:
    """A machine: CPUs under an engine, interfaces, bridges.

    Args:
      ncpu -- 1..64 CPUs.
      clock -- "virtual": deterministic, on one thread; "wall": an OS thread per CPU.
      kernel -- "NET_MPSAFE", or "GENERIC": everything under KERNEL_LOCK (paper §2.1).
      seed -- of hash keys, scheduling order, addresses.
      frame -- "softint" or "classic" driver frame (paper §3.3, §2.3).
      drain -- frames one activation takes: "one", "ring", or a number (paper §6.2); None: a vector of 256.
      path -- "compiled": the run loop serves frames; "stages": the Python layers do.
      mbufs -- size of the pool.   costs -- virtual clock: the cost model.
      busy_poll_us -- wall clock: an idle CPU keeps looking for work this long before it sleeps.
      pserialize -- strategy of read sections: "switch" (the paper's), "membarrier" or "seqcst"; None: "switch" on
      the virtual clock, on the wall clock "membarrier" where the host has it, else "seqcst".
      lockdebug -- check the use of locks (docs/contexts.md); None: in the checked build only.
    Raises: NetstackError(EINVAL) that names the argument.
    """

    def __init__(
        self,
        ncpu: int = 1,
        clock: str = "virtual",
        kernel: str = "NET_MPSAFE",
        seed: int = 0,
        *,
        frame: str = "softint",
        drain: str | int | None = None,
        path: str | None = None,
        mbufs: int = MBUFS_DEFAULT,
        costs: Costs | None = None,
        busy_poll_us: float = 0.0,
        lockdebug: bool | None = None,
        pserialize: str | None = None,
    ) -> None:
        _one_of("clock", clock, ("wall", "virtual"))
        _one_of("frame", frame, FRAMES)
        self.path = path if path is not None else ("compiled" if clock == "wall" else "stages")
        _one_of("path", self.path, PATHS)
        if isinstance(ncpu, bool) or not isinstance(ncpu, int) or not 1 <= ncpu <= CPU_MAX:
            raise NetstackError(EINVAL, f"ncpu={ncpu!r}: a machine has 1 to {CPU_MAX} CPUs")
        if not isinstance(seed, int):
            raise NetstackError(EINVAL, f"seed={seed!r}: an integer")
        self.ncpu = ncpu
        self.clock = clock
        self.kernel = kernel
        self.seed = seed
        self.frame = frame
        self.drain = drain
        self._drain = _drain_limit(drain)
        try:
            self.pool = MbufPool(mbufs, ncpu)
        except ValueError as problem:
            raise NetstackError(EINVAL, f"mbufs={mbufs}: {problem}") from None
        strategy = _psz_strategy(pserialize, clock)
        controller = IntrController(ncpu)
        self.engine: Engine = (
            VirtualEngine(ncpu, self.pool, controller, kernel, seed, costs, psz_strategy=strategy)
            if clock == "virtual"
            else WallEngine(ncpu, self.pool, controller, kernel, seed, psz_strategy=strategy)
        )
        self.interfaces: dict[str, Ifnet] = {}
        self.ifnet_by_index: dict[int, Ifnet] = {}
        self.bridges: dict[str, Bridge] = {}
        self.dma = DmaMap()
        self.pci = PciHost(controller)
        self._units = 0
        self._indices = 0
        self._is_closed = False
        attach(self.engine, lockdebug)
        self.chipset = PciChipset(self.engine)
        self.netisr = Netisr(self)
        self.intrctl = IntrCtl(self.engine, self._select_tx)
        self._establish_softints()
        for cpu in self.engine.cpus:
            cpu.block.busy_poll_ns = round(busy_poll_us * 1000)

    # Making things.

    def nic(
        self,
        name: str,
        rx_queues: int = 1,
        tx_queues: int = 1,
        mac: str | bytes | None = None,
        mtu: int = 1500,
        rate: float = 0.0,
        intr: IntrType = "msix",
    ) -> Ifnet:
        """Attach a NIC; the letters of the name choose its model: ``wm`` is an I354, ``vioif`` a virtio device.

        The queues of a virtio device come in pairs: it has as many of one kind as of the other.

        Args:    mac -- default: a local address made from the unit.   rate -- bits a second of its wire
                 (virtual clock), 0: sending takes no time.   intr -- the best interrupt type to try:
                 "msix", "msi" or "intx"; the latter two use one queue each way.
        Returns: the interface, up and running, with the far end of its cable as ``wire``.
        Raises:  NetstackError: EINVAL (name, queues, address, rate), EEXIST, ENOBUFS (pool too small).
        """
        self._check_open()
        model = name.rstrip("0123456789")
        if model not in MODELS or model == name:
            text = f"NIC names are a model and a number; models: {', '.join(MODELS)}"
            raise NetstackError(EINVAL, f"{name}: {text}")
        for what, count in (("rx_queues", rx_queues), ("tx_queues", tx_queues)):
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= WM_QUEUES_MAX:
                raise NetstackError(EINVAL, f"{name}: {what} must be 1..{WM_QUEUES_MAX}, not {count!r}")
        _one_of("intr", intr, TYPES)
        if rate < 0:
            raise NetstackError(EINVAL, f"{name}: a rate of {rate} bits a second; 0 is a wire without a limit")
        if rate and self.clock == "wall":
            raise NetstackError(EINVAL, f"{name}: a wire has a rate on the virtual clock only")
        if model == "vioif":
            return self._vioif(name, rx_queues, tx_queues, mac, mtu, rate, intr)
        wanted = rx_queues * WM_RX_SLOTS
        if self.pool.free_count < MBUFS_PER_QUEUE_SPARE * wanted:
            text = f"{name}: {rx_queues} receive rings take {wanted} mbufs, {self.pool.free_count} are free"
            raise NetstackError(ENOBUFS, f"{text}; make the machine with more than mbufs={self.pool.nmbufs}")
        ifp = self._new_ifnet(name, mac, mtu)
        hw = WmModel(name, self.engine, self.engine.controller, self.dma, WIRE_LIMIT_FRAMES)
        hw.tx_port.set_rate(rate)
        ifp.hw = hw
        ifp.wire = hw.wire
        ether_ifattach(ifp)
        pa = self._plug(hw)
        try:
            driver = WmDriver(self, ifp, hw, self.dma, pa, self._units, rx_queues, tx_queues, intr)
        except BaseException:
            self.pci.unplug(pa.place)
            raise
        return self._started(ifp, driver)

    def bridge(self, name: str, members: Iterable[Ifnet | str] = (), **options: Any) -> Bridge:
        """Make a bridge of interfaces; options as ``Bridge``: timeout, maxaddr, mtu, forward_control.

        Raises: NetstackError: EEXIST, and what ``Bridge`` and its ``add`` raise.
        """
        self._check_open()
        if name in self.bridges:
            raise NetstackError(EEXIST, f"{name} exists already")
        br = Bridge(self, name, len(self.bridges), members, **options)
        self.bridges[name] = br
        return br

    def port(self, port: Any) -> Ifnet:
        """Attach a port to the real world (``netstack.ports``); the interface has the host's name.

        Raises: NetstackError: EINVAL (virtual clock), EEXIST, ENOBUFS.
        """
        from netstack.dev import portif  # real ports are not needed to use a machine

        self._check_open()
        if self.clock != "wall":
            raise NetstackError(EINVAL, f"{port.name}: real ports need Machine(clock='wall')")
        ifp = self._new_ifnet(port.name, port.mac, port.mtu)
        ether_ifattach(ifp)
        portif.attach(self, ifp, port)
        self._enter(ifp)
        ifp.up()
        return ifp

    def destroy(self, ifp: Ifnet | str) -> None:
        """Take an interface away: out of its bridge, down, its driver detached.

        Raises: NetstackError(ENXIO) when there is no such interface, or the machine is closed.
        """
        self._check_open()
        found = self.interfaces.get(ifp if isinstance(ifp, str) else ifp.name)
        if found is None or not (isinstance(ifp, str) or ifp is found):
            raise NetstackError(ENXIO, f"{ifp}: no such interface")
        found.detach()
        found.driver.detach()
        if isinstance(found.driver, WmDriver | VioifDriver):
            self.pci.unplug(found.driver.pa.place)
        if found.wire is not None:
            found.wire.is_cut = True
        del self.interfaces[found.name]  # its index stays: frames of it may still be queued

    # Running and looking.

    def run(self, seconds: float | None = None) -> None:
        """Let the machine work: until idle, or for so many seconds of its clock.

        Raises: what a Python handler raised; NetstackError(ENXIO) when closed.
        """
        self._check_open()
        self.engine.run(seconds)

    def spawn(self, fn: Callable[[], object], cpu: int = 0, name: str = "") -> Lwp:
        """Start a kernel thread on a CPU: control operations in it run side by side with traffic.

        Returns: the thread; ``is_done`` says whether ``fn`` has returned.
        Raises:  NetstackError(EINVAL) for a CPU that is not there.  What ``fn`` raises comes out of ``run``.
        """
        self._check_open()
        return self.engine.spawn(fn, cpu=cpu, name=name)

    def command(self, line: str) -> str:
        """Run an operator's tool on this machine: brconfig, ifconfig or intrctl; returns its output.

        Raises: NetstackError as the tool's error; EINVAL for an unknown tool.
        """
        self._check_open()
        try:
            words = split(line)
        except ValueError as problem:
            raise NetstackError(EINVAL, f"{line!r}: {problem}") from None
        if not words or words[0] not in TOOLS:
            raise NetstackError(EINVAL, f"{line!r}: the tools are {', '.join(TOOLS)}")
        tool = import_module(f"netstack.cmd.{words[0]}")  # tools sit above the machine
        output: str = tool.run(self, words[1:])
        return output

    def stats(self) -> dict[str, Any]:
        """Return counters as a nested dict: interfaces (with drops by reason), bridges, cpus, mbufs, interrupts."""
        return _audit.stats(self)

    def audit(self) -> dict[str, dict[str, int]]:
        """Check that every frame and every mbuf is accounted for; exact while the machine does not run.

        Returns: both sides of each identity.
        Raises:  NetstackError(EINVAL) that names the identity and both sides.
        """
        return _audit.audit(self)

    @property
    def all_interfaces(self) -> list[Ifnet]:
        """Every interface there ever was: destroyed ones keep their counters."""
        return list(self.ifnet_by_index.values())

    def drain_frames(self, slots: int) -> int:
        """Frames one activation may take from a ring of ``slots``."""
        if self._drain == 0:
            return WHOLE_RING if self.frame == "classic" else slots
        return self._drain

    def close(self) -> None:
        """End the machine: CPUs stop, wires lead nowhere.  Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for ifp in self.interfaces.values():
            if ifp.wire is not None:
                ifp.wire.is_cut = True
        self.engine.close()
        for ifp in self.all_interfaces:
            closer = getattr(ifp.driver, "close", None)
            if closer is not None:
                closer()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{len(self.interfaces)} interfaces"
        return f"<Machine {self.clock} clock, {self.kernel}, {self.ncpu} CPUs, seed {self.seed}, {state}>"

    # Inside.

    def _vioif(
        self, name: str, rx_queues: int, tx_queues: int, mac: str | bytes | None, mtu: int, rate: float, intr: IntrType
    ) -> Ifnet:
        """Attach a virtio device that has so many pairs of queues."""
        if rx_queues != tx_queues:
            text = f"queues come in pairs; rx_queues={rx_queues}, tx_queues={tx_queues}"
            raise NetstackError(EINVAL, f"{name}: {text}")
        if rate:
            raise NetstackError(EINVAL, f"{name}: a virtio device sends at once; a wire with a rate needs wm")
        ifp = self._new_ifnet(name, mac, mtu)
        memory = SharedMemory(vioif_memory_bytes(rx_queues))
        hw = VioifModel(name, self.engine.controller, memory, ifp.block.mac, rx_queues, WIRE_LIMIT_FRAMES)
        ifp.hw = hw
        ifp.wire = hw.wire
        ether_ifattach(ifp)
        pa = self._plug(hw)
        try:
            driver = VioifDriver(self, ifp, pa, memory, self._units, rx_queues, intr)
        except BaseException:
            self.pci.unplug(pa.place)
            raise
        return self._started(ifp, driver)

    def _started(self, ifp: Ifnet, driver: WmDriver | VioifDriver) -> Ifnet:
        """Enter an attached NIC and start it."""
        self._units += 1
        self._enter(ifp)
        driver.init()
        ifp.up()
        return ifp

    def _check_open(self) -> None:
        if self._is_closed:
            raise NetstackError(ENXIO, "the machine is closed")

    def _new_ifnet(self, name: str, mac: str | bytes | None, mtu: int) -> Ifnet:
        if name in self.interfaces:
            raise NetstackError(EEXIST, f"{name} exists already")
        self._indices += 1
        if mac is None:
            mac = bytes((0x02, 0x00, 0x5E, self.seed & 0xFF, self._indices >> 8, self._indices & 0xFF))
        return Ifnet(self, name, self._indices, mac, mtu)

    def _plug(self, hw: WmModel | VioifModel) -> PciAttachArgs:
        """Put a NIC on the bus; return what its driver attaches to."""
        place = self.pci.plug(hw.function, hw.intx)
        line = hw.intx.line
        number = 0 if line is None else line.number
        return PciAttachArgs(self.pci.bus, place, self.chipset, line, number, hw.function.pin)

    def _enter(self, ifp: Ifnet) -> None:
        for cpu in self.engine.cpus:
            cpu.block.set_ifnet(ifp.index, ifp.block)
        self.interfaces[ifp.name] = ifp
        self.ifnet_by_index[ifp.index] = ifp

    def _select_tx(self) -> None:
        """Interrupts have moved: drivers choose their TX queues anew."""
        for ifp in self.interfaces.values():
            select = getattr(ifp.driver, "select_tx", None)
            if select is not None:
                select()

    def _establish_softints(self) -> None:
        """The machine's own softints: Python handlers of punted frames, and the classic frame's bridge."""
        softints = self.engine.softints
        self._punt = softints.establish("net", self._drain_punts, name="netisr")
        bridge_kind = "bridge" if self.path == "compiled" and self.clock == "wall" else "python"
        self._bridge_softint = softints.establish("net", bridge_intr, self, kind=bridge_kind, name="bridge")
        for cpu in self.engine.cpus:
            cpu.block.punt_softint = self._punt.handle
            cpu.block.fwdq_softint = self._bridge_softint.handle

    def _drain_punts(self, _arg: object) -> None:
        """Hand what the kernels left to Python to its slot, vector by vector, in order."""
        cpu = self.engine.curcpu()
        assert cpu is not None, "a softint runs on a CPU"
        while True:
            mv = MbufVec(self.pool, cpu.index)
            kind = cpu.block.punt_take(mv)
            if not kind:
                return
            ifp = self.ifnet_by_index[mv.rcvif]
            try:
                if kind == "local":
                    ether_demux(ifp, mv, cpu)
                elif kind == "input":
                    ifp.if_input(ifp, mv, cpu)
                else:
                    bridge_resume(ifp, mv, cpu)
            except Exception:
                self.engine.softints.schedule(self._punt)  # the others' frames go on
                raise
            finally:
                if mv:
                    kernels.drop(cpu.block, ifp.block, mv, Drop.HOOK)


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NetstackError(EINVAL, f"{what}={value!r}: one of {', '.join(choices)}")


def _psz_strategy(wanted: str | None, clock: str) -> str:
    """Return the strategy of read sections by its name in ``_fast/pserialize``."""
    if wanted is None:
        return "switch" if clock == "virtual" else "auto"
    _one_of("pserialize", wanted, tuple(STRATEGIES))
    if wanted == "membarrier" and not membarrier_available():
        text = "pserialize='membarrier': this host's kernel has no membarrier(2); use 'seqcst' or 'switch'"
        raise EnvironmentLacksError(ENOSYS, text)
    return wanted


def _drain_limit(drain: str | int | None) -> int:
    """Return frames per activation; 0 stands for the whole ring."""
    if drain is None:
        return DRAIN_BURST_FRAMES
    if drain == "ring":
        return 0
    if drain == "one":
        return 1
    if isinstance(drain, bool) or not isinstance(drain, int) or drain < 1:
        raise NetstackError(EINVAL, f"drain={drain!r}: 'one', 'ring', or a number of frames")
    return drain
