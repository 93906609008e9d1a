"""The members of ``netstack bridge``: host interfaces and capture files on one machine.

A host interface is a port of the machine.  A capture file is a NIC whose cable ends in the file:
what is read goes in, what comes out is written.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import count

from netstack.errors import NetstackError
from netstack.net.ifnet import Ifnet
from netstack.ports.af_packet import PacketPort
from netstack.ports.af_xdp import XdpPort
from netstack.ports.pcap import PcapReader, Record
from netstack.ports.pcapng import PcapngWriter
from netstack.ports.spec import PortSpec
from netstack.ports.tap import TapPort
from netstack.topology import Machine

__all__ = ["FileMember", "HostMember", "Member", "batches", "open_files", "open_hosts"]

BATCH_FRAMES = 256
BATCH_NS = 10**9  # frames further apart than this are not sent together: ageing counts seconds
FEED_FRAMES = 4096  # frames of a file that may wait on its cable

GONE = "gone"


class HostMember:
    """A member on an interface of the host."""

    def __init__(self, spec: PortSpec, ifp: Ifnet) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.ifp = ifp
        self._told = self.state

    @property
    def state(self) -> str:
        """``up``, ``down`` or ``gone``, as the driver saw it last."""
        return str(self.ifp.driver.state)

    @property
    def missed(self) -> int:
        """Frames the host dropped before the bridge could take them."""
        return int(self.ifp.driver.missed)

    @property
    def host_dropped(self) -> dict[str, int]:
        """Frames the host's interface dropped itself: after it took them, or before it gave them."""
        return dict(self.ifp.driver.port.host_dropped._asdict())

    def news(self) -> str:
        """Return a line about a change of state since the last call, or nothing."""
        state = self.state
        if state == self._told:
            return ""
        self._told = state
        if state == GONE:
            return f"{self.name}: the interface is gone (deleted, or moved to another namespace)"
        return f"{self.name}: the link is {state}"


class FileMember:
    """A member whose far end is a file to read, a file to write, or both."""

    def __init__(self, spec: PortSpec, ifp: Ifnet, source: PcapReader | None, sink: PcapngWriter | None) -> None:
        self.name = spec.name
        self.kind = spec.kind
        self.ifp = ifp
        self.missed = 0
        self.host_dropped: dict[str, int] = {}
        self.failure = ""  # why reading ended before the file's end
        self._source = source
        self._sink = sink
        self._records = self._read() if source is not None else iter(())
        self.is_exhausted = source is None
        if sink is not None:
            self._interface = sink.add_interface(ifp.name)

    @property
    def state(self) -> str:
        """``up`` while there is something to read, then ``end``; ``up`` if there is no source."""
        return "end" if self._source is not None and self.is_exhausted else "up"

    def news(self) -> str:
        """Return a line about a file that turned out bad, once, or nothing."""
        failure, self.failure = self.failure, ""
        return failure

    def _read(self) -> Iterator[Record]:
        """Yield records up to the end or the first bad one."""
        assert self._source is not None
        try:
            yield from self._source
        except NetstackError as problem:
            self.failure = str(problem)
        self.is_exhausted = True

    @property
    def records(self) -> Iterator[Record]:
        """What is left to read, in the file's order."""
        return self._records

    def feed(self) -> None:
        """Put frames on the cable until enough wait there (wall clock, at full speed)."""
        waiting = sum(engine.resting for engine in self.ifp.hw.rx_engines)
        room = max(FEED_FRAMES - waiting, 0)
        frames = [record.frame for _, record in zip(range(room), self._records, strict=False)]
        if frames:
            self.ifp.wire.send(frames)

    def drain(self, time_ns: int | None = None) -> None:
        """Take what came out; write it with a time, or with the present one."""
        frames = self.ifp.wire.recv()
        if self._sink is None or not frames:
            return
        stamp = time.time_ns() if time_ns is None else time_ns
        for frame in frames:
            self._sink.write(self._interface, frame, max(stamp, 0))


Member = HostMember | FileMember


def open_port(spec: PortSpec, tx_queues: int, offload: bool) -> PacketPort | TapPort | XdpPort:
    """Open one host interface by its kind.  An AF_XDP port finishes offloaded frames itself."""
    if spec.kind == "tap":
        return TapPort(spec.name, offload=offload)
    if spec.kind == "xdp":
        return XdpPort(spec.name)
    return PacketPort(spec.name, tx_queues=tx_queues, offload=offload)


def open_hosts(machine: Machine, specs: list[PortSpec], offload: bool) -> list[HostMember]:
    """Open the host interfaces among ``specs`` and attach them; the machine closes them.

    Args:   offload -- False when some member cannot take offloaded frames.
    Raises: what the ports raise.
    """
    members = []
    for spec in specs:
        if spec.kind == "pcap":
            continue
        port = open_port(spec, machine.ncpu, offload)
        try:
            members.append(HostMember(spec, machine.port(port)))
        except BaseException:
            port.close()
            raise
    return members


def open_files(machine: Machine, specs: list[PortSpec], undo: ExitStack) -> list[FileMember]:
    """Open the capture files among ``specs`` and give each a NIC; inputs before any output.

    Raises: what the reader and the writer raise.
    """
    wanted = [spec for spec in specs if spec.kind == "pcap"]
    sources = [undo.enter_context(PcapReader(spec.source)) if spec.source is not None else None for spec in wanted]
    members = []
    for number, spec, source in zip(count(), wanted, sources, strict=False):
        sink = None
        if spec.sink is not None:
            sink = undo.enter_context(PcapngWriter(spec.sink, overwrite=True))
        members.append(FileMember(spec, machine.nic(f"wm{number}"), source, sink))
    return members


def batches(members: list[FileMember], seconds: float | None = None) -> Iterator[tuple[int, FileMember, list[bytes]]]:
    """Yield ``(time, member, frames)``: all files merged by time, runs of one file together.

    Within a file the order is the file's, whatever its times say.
    Args: seconds -- leave out what comes later than this after the first frame.
    """

    def stamped(number: int, member: FileMember) -> Iterator[tuple[int, int, bytes]]:
        latest = 0
        for record in member.records:
            latest = max(latest, record.time_ns)
            yield latest, number, record.frame

    streams = [stamped(number, member) for number, member in enumerate(members)]
    frames: list[bytes] = []
    start = current = 0
    end_ns: float | None = None
    for time_ns, number, frame in merge(*streams, key=lambda item: item[:2]):
        if end_ns is None:
            end_ns = float("inf") if seconds is None else time_ns + seconds * 1e9
        if time_ns > end_ns:
            break
        is_apart = number != current or time_ns - start > BATCH_NS
        if frames and (is_apart or len(frames) == BATCH_FRAMES):
            yield start, members[current], frames
            frames = []
        if not frames:
            start, current = time_ns, number
        frames.append(frame)
    if frames:
        yield start, members[current], frames
