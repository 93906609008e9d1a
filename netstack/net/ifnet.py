"""The network interface: name, address, flags, the slots a frame goes through (paper §2.1, §5.4).

Drivers make one per device and fill in queues; ``ether_ifattach`` gives it Ethernet's slots; the
bridge swaps them.  What the kernels need of it (address, limits, counters) is in ``block``, a
compiled object; a change here is written through to it.

Context: control plane, except ``if_transmit`` and the slots, which run wherever frames do.
Limits:  the MTU, and ``IF_RECVQ_MAXLEN_FRAMES`` frames held for ``recv``.
Source:  paper §2.1 (if_snd, input slots), §3.2.1 (slots), §5.4 (if_transmit); NetBSD ifnet(9).
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import IntFlag
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from netstack._fast import kernels
from netstack._fast.ifnet import FLAG_LISTEN, FLAG_PROMISC, FLAG_RUNNING, FLAG_UP, IfnetBlock
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.queue import RxQueue, TxQueue
from netstack.errors import NetstackError
from netstack.machine.api import Cpu, Engine
from netstack.params import IF_MTU_MAX, IF_MTU_MIN, IF_RECVQ_MAXLEN_FRAMES

if TYPE_CHECKING:
    from netstack.net.bridge_ctl import Bridge
    from netstack.net.netisr import Netisr

__all__ = ["ETHER_HDR_LEN", "IFF", "Ifnet", "Stack", "format_mac", "if_transmit", "parse_mac"]

ETHER_HDR_LEN = 14

InputSlot: TypeAlias = "Callable[[Ifnet, MbufVec, Cpu], None]"
OutputSlot: TypeAlias = "Callable[[Ifnet, bytes, Cpu | None], None]"
PathSlot: TypeAlias = "Callable[[Ifnet, bytes, Cpu], None]"


class IFF(IntFlag):
    """Interface flags: NetBSD's bits, and LISTEN above them for a taker of local frames."""

    UP = FLAG_UP
    BROADCAST = 0x2
    RUNNING = FLAG_RUNNING
    PROMISC = FLAG_PROMISC
    SIMPLEX = 0x800
    MULTICAST = 0x8000
    LISTEN = FLAG_LISTEN


IFF_LIVE = IFF.UP | IFF.RUNNING
IFF_ETHER = IFF.BROADCAST | IFF.SIMPLEX | IFF.MULTICAST


class Stack(Protocol):
    """What the network layer asks of the machine it is part of."""

    engine: Engine
    pool: MbufPool
    seed: int
    netisr: "Netisr"
    interfaces: "dict[str, Ifnet]"
    ifnet_by_index: "dict[int, Ifnet]"
    bridges: "dict[str, Bridge]"


def parse_mac(text: str | bytes) -> bytes:
    """Return the six bytes of an Ethernet address: six bytes, or hexadecimal ``a:b:c:d:e:f``.

    Raises: NetstackError(EINVAL) for anything else.
    """
    if isinstance(text, (bytes, bytearray)) and len(text) == 6:
        return bytes(text)
    fields = text.replace("-", ":").split(":") if isinstance(text, str) else []
    is_hex = all(0 < len(f) <= 2 and set(f) <= set("0123456789abcdefABCDEF") for f in fields)
    if len(fields) != 6 or not is_hex:
        raise NetstackError(EINVAL, f"{text!r} is no Ethernet address; write 02:00:00:00:00:01")
    return bytes(int(field, 16) for field in fields)


def format_mac(mac: bytes) -> str:
    """Return six bytes as ``02:00:00:00:00:01``."""
    return mac.hex(":")


class Ifnet:
    """One interface of one machine.

    Args:   machine -- the stack it belongs to; only its attributes in ``Stack`` are used here.
            name -- device name and unit, as ``wm0``.   index -- from 1, unique in the machine.
            mac -- a unicast address.   mtu -- bytes of payload of the longest untagged frame.
    Raises: NetstackError(EINVAL) for an address that is no station's, or an MTU out of range.
    """

    def __init__(self, machine: Stack, name: str, index: int, mac: str | bytes, mtu: int = 1500) -> None:
        address = parse_mac(mac)
        if address[0] & 1 or not any(address):
            raise NetstackError(EINVAL, f"{name}: {format_mac(address)} is no station's address")
        self.machine = machine
        self.name = name
        self.index = index
        self.block = IfnetBlock(index, address, _checked_mtu(name, mtu) + ETHER_HDR_LEN)
        self.driver: Any = None  # set by the driver, like the four below
        self.hw: Any = None
        self.wire: Any = None
        self.rx_queues: list[RxQueue] = []
        self.tx_queues: list[TxQueue] = []
        self.bridge: Bridge | None = None  # guarded by the ifnet mutex
        self.is_ethernet = True
        self._transmit: InputSlot = if_transmit
        self._own_transmit: InputSlot = if_transmit
        self.if_output: OutputSlot | None = None  # ether_ifattach
        self.bridge_output: PathSlot | None = None  # filled while it is a bridge's member
        self.recv_overflow = 0  # frames lost because nobody called recv
        self._mtu = mtu
        self._flags = IFF_ETHER
        self._promisc_users = 0
        self._received: deque[bytes] = deque()
        self._input: InputSlot | None = None
        self._tables: dict[InputSlot, str] = {}

    @property
    def mac(self) -> str:
        """The station address, as text."""
        return format_mac(self.block.mac)

    @property
    def if_input(self) -> InputSlot:
        """Where the driver hands received frames: ``ether_input``, ``bridge_input``, or yours.

        A callable of your own gets ``(ifp, mv, cpu)`` and consumes ``mv``; the compiled loop then
        leaves this interface's frames, in order, to Python.  Putting the old value back undoes it.
        """
        if self._input is None:
            raise NetstackError(EINVAL, f"{self.name}: not attached; ether_ifattach(ifp) first")
        return self._input

    @if_input.setter
    def if_input(self, function: InputSlot) -> None:
        self._input = function
        self.block.table = self._tables.get(function, "punt")

    def set_input(self, function: InputSlot, table: str) -> None:
        """Fill ``if_input`` with a stage that the compiled loop has too, as ``table``."""
        self._tables[function] = table
        self.if_input = function

    @property
    def if_transmit(self) -> InputSlot:
        """Where frames to send go: the driver's function, or yours.

        A callable of your own gets ``(ifp, mv, cpu)`` and consumes ``mv``, perhaps by calling the
        old value; the compiled loop then leaves what goes out here to Python, in order.
        """
        return self._transmit

    @if_transmit.setter
    def if_transmit(self, function: InputSlot) -> None:
        self._transmit = function
        self.block.tx_hook = function != self._own_transmit

    def set_transmit(self, function: InputSlot, mpsafe: bool = True) -> None:
        """Fill ``if_transmit`` with the driver's function, which the compiled loop may bypass.

        Args:   mpsafe -- False: it runs under KERNEL_LOCK, on any kernel, and is never bypassed
                (NetBSD without IFEF_MPSAFE).
        """
        self._own_transmit = function
        self.if_transmit = self.machine.engine.kernel_lock.wrap(function, mpsafe)

    @property
    def flags(self) -> IFF:
        """UP and PROMISC are the operator's and the bridge's, RUNNING is the driver's."""
        return self._flags

    @flags.setter
    def flags(self, value: IFF) -> None:
        changed = self._flags ^ value
        self._flags = value
        self.write_flags()
        if self.bridge is not None and changed & IFF_LIVE:
            self.bridge.member_changed()

    def write_flags(self) -> None:
        """Tell the kernels the flags; LISTEN there means that somebody here takes local frames."""
        seen = self._flags & (IFF_LIVE | IFF.PROMISC | IFF.LISTEN)
        if self.machine.netisr.has_handlers:
            seen |= IFF.LISTEN
        self.block.flags = int(seen)

    @property
    def is_live(self) -> bool:
        """Up, and its device runs."""
        return IFF_LIVE in self._flags

    def up(self) -> None:
        """Mark the interface up: frames may come and go."""
        self.flags |= IFF.UP

    def down(self) -> None:
        """Mark the interface down: what arrives is dropped as ``if_down``, ``send`` refuses."""
        self.flags &= ~IFF.UP

    def promisc(self, on: bool) -> None:
        """Ask for (or stop asking for) frames to other stations; users are counted."""
        self._promisc_users = max(0, self._promisc_users + (1 if on else -1))
        if self._promisc_users:
            self.flags |= IFF.PROMISC
        else:
            self.flags &= ~IFF.PROMISC

    @property
    def mtu(self) -> int:
        """Bytes of payload of the longest untagged frame."""
        return self._mtu

    @mtu.setter
    def mtu(self, value: int) -> None:
        _checked_mtu(self.name, value)
        if self.bridge is not None and value != self._mtu:
            text = f"{self.name}: the members of {self.bridge.name} share its MTU of {self._mtu}"
            raise NetstackError(EINVAL, f"{text}; delete it from the bridge first")
        self._mtu = value
        self.block.maxlen = value + ETHER_HDR_LEN

    def listen(self, on: bool = True) -> None:
        """Keep frames for this machine that arrive on this interface, for ``recv``."""
        self.flags = self.flags | IFF.LISTEN if on else self.flags & ~IFF.LISTEN

    def recv(self) -> list[bytes]:
        """Return the frames for this machine kept since the last call, oldest first."""
        received = []
        while self._received:
            received.append(self._received.popleft())
        return received

    def keep(self, frames: Iterable[bytes]) -> None:
        """Hold frames for ``recv``; the oldest stay, what does not fit counts as overflow.

        Context: softint or hard interrupt, called by ``ether_input`` while LISTEN is set.
        """
        for frame in frames:
            if len(self._received) < IF_RECVQ_MAXLEN_FRAMES:
                self._received.append(frame)
            else:
                self.recv_overflow += 1

    def send(self, frame: bytes) -> None:
        """Send one whole Ethernet frame from this machine's own stack.

        From a CPU's handler it goes out at once; from a control thread it is queued for CPU 0.
        Raises: NetstackError: ENETDOWN, EMSGSIZE, EINVAL (no header), ENOBUFS (queue full).
        Source: paper §2.1; NetBSD ether_output.
        """
        if self.if_output is None:
            raise NetstackError(EINVAL, f"{self.name}: not attached; ether_ifattach(ifp) first")
        self.if_output(self, frame, None)

    def detach(self) -> None:
        """Leave the bridge and go down: the interface is about to be destroyed."""
        if self.bridge is not None:
            self.bridge.delete(self)
        self.down()

    @property
    def counters(self) -> dict[str, int]:
        """Frames and bytes in and out, summed over CPUs, and ``drops_NAME`` for each loss."""
        counted = dict(self.block.counters())
        counted.update((f"drops_{name}", n) for name, n in self.block.drops().items())
        counted["recv_overflow"] = self.recv_overflow
        return counted

    def __repr__(self) -> str:
        shown = [flag.name or "" for flag in (IFF.UP, IFF.RUNNING) if flag in self._flags]
        state = ",".join(shown) or "DOWN"
        member = f" member of {self.bridge.name}," if self.bridge is not None else ","
        queues = f"{len(self.rx_queues)} RX / {len(self.tx_queues)} TX queues"
        return f"<Ifnet {self.name} {self.mac} {state}{member} {queues}>"


def if_transmit(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Put frames on the send queue that belongs to this CPU and start the device.

    Context:  any but a read section: in virtual time it may be pre-empted.
    Consumes: every mbuf in ``mv``.
    Order:    kept per CPU: one CPU always uses one TX queue.
    Outcome:  ``if_snd`` of the CPU's queue, or a drop: ``if_down``, ``snd_full``.
    Cost:     one lock of the send queue, one try-lock of the TX queue.
    Source:   paper §5.4; NetBSD if_transmit.
    """
    ifp.machine.engine.charge("if_transmit", len(mv))
    kernels.if_transmit(cpu.block, ifp.block, mv)


def _checked_mtu(name: str, mtu: int) -> int:
    if isinstance(mtu, bool) or not isinstance(mtu, int) or not IF_MTU_MIN <= mtu <= IF_MTU_MAX:
        raise NetstackError(EINVAL, f"{name}: MTU {mtu!r} is not {IF_MTU_MIN}..{IF_MTU_MAX}")
    return mtu
