"""A streaming reader of capture files: pcap and pcapng (draft-ietf-opsawg-pcap, -pcapng).

pcap with micro- or nanoseconds in either byte order; pcapng sections of either byte order with
interface descriptions and enhanced, simple and (obsolete) packet blocks; other blocks are skipped.

A file is never believed: each length is checked against the others and against a limit before
anything is read, so memory stays bounded whatever the file says.  Frames are given without FCS: one
that the file declares is cut off.  Only Ethernet (link type 1).

Context: control.  Errors: NetstackError(EINVAL) with the file's name and the record's number.
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, NamedTuple, NoReturn, Self

from netstack.errors import NetstackError

__all__ = ["CAPLEN_MAX", "PcapReader", "Record"]

CAPLEN_MAX = 262144  # bytes of one frame; the limit of the common capture tools
BLOCK_BYTES_MAX = CAPLEN_MAX + (1 << 16)  # a block we read whole: a frame and its options
INTERFACES_MAX = 4096  # interface descriptions of one section
SKIP_BYTES = 1 << 16  # how much of an unknown block is in memory at a time
LINKTYPE_ETHERNET = 1

# First four bytes -> byte order, nanoseconds per unit of the second timestamp field.
PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}

BLOCK_INTERFACE = 1
BLOCK_PACKET = 2
BLOCK_SIMPLE = 3
BLOCK_ENHANCED = 6
BLOCK_SECTION = 0x0A0D0D0A
OPTION_END = 0
OPTION_TSRESOL = 9
OPTION_FCSLEN = 13
OPTION_TSOFFSET = 14


class Record(NamedTuple):
    """One frame of a file."""

    frame: bytes
    time_ns: int  # since 1970
    interface: int  # pcapng: index of the interface description; pcap: 0
    wire_bytes: int  # length on the wire without FCS; more than len(frame) when it was cut


@dataclass(slots=True)
class Interface:
    """What a section says of one of its interfaces."""

    snaplen: int
    units_per_s: int = 1_000_000
    offset_s: int = 0
    fcs_bytes: int = 0


class PcapReader:
    """The frames of one file, in order, read as they are asked for.

    Args:   source -- a path, or a binary stream, which stays the caller's to close.
            name -- what errors call it.
    Raises: NetstackError(EINVAL) -- here for a bad beginning, from the iterator for a bad record;
            frames before the bad record are given first.  Other errno: the file cannot be opened.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> None:
        self._owned = isinstance(source, str | os.PathLike)
        if isinstance(source, str | os.PathLike):
            self.name = name or os.fspath(source)
            try:
                self._stream: BinaryIO = open(source, "rb")
            except (OSError, ValueError) as problem:
                reason = getattr(problem, "strerror", None) or problem
                raise NetstackError(getattr(problem, "errno", None) or errno.EINVAL, f"{self.name}: {reason}") from None
        else:
            self.name = name or str(getattr(source, "name", "capture"))
            self._stream = source
        self.record_count = 0  # records begun, so an error can say where
        try:
            self._records = self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Iterator[Record]:
        """Read the beginning and return the iterator of its format."""
        magic = self._read(4, "the magic number")
        if magic == PCAPNG_MAGIC:
            self.kind = "pcapng"
            section = Section(self, self._section_header())
            return self._pcapng(section)
        if magic not in PCAP_MAGICS:
            self._refuse(f"not a capture file: it begins with {magic.hex()}")
        self.kind = "pcap"
        order, unit_ns = PCAP_MAGICS[magic]
        major, minor, _, _, _, network = struct.unpack(order + "HHiIII", self._read(20, "the file header"))
        if major != 2:
            self._refuse(f"pcap version {major}.{minor}; 2.4 is known")
        self.check_linktype(network & 0xFFFF)
        # The upper bits may say how many 16-bit words of FCS end each frame.
        fcs_bytes = (network >> 28) * 2 if network & 0x04000000 else 0
        return self._pcap(struct.Struct(order + "IIII"), unit_ns, fcs_bytes)

    def _pcap(self, header: struct.Struct, unit_ns: int, fcs_bytes: int) -> Iterator[Record]:
        while True:
            first = self._stream.read(1)
            if not first:
                return
            self.record_count += 1
            packed = first + self._read(header.size - 1, "a record header")
            seconds, part, captured, length = header.unpack(packed)
            self.check_lengths(captured, length)
            frame = self._read(captured, "a frame")
            yield finished(frame, length, seconds * 10**9 + part * unit_ns, 0, fcs_bytes)

    def _pcapng(self, section: "Section") -> Iterator[Record]:
        handlers: dict[int, Callable[[Section, bytes], Record | None]] = {
            BLOCK_INTERFACE: Section.add_interface,
            BLOCK_PACKET: Section.packet,
            BLOCK_SIMPLE: Section.simple,
            BLOCK_ENHANCED: Section.enhanced,
        }
        while True:
            kind_bytes = self._stream.read(1)
            if not kind_bytes:
                return
            kind_bytes += self._read(3, "a block type")
            if kind_bytes == PCAPNG_MAGIC:
                section = Section(self, self._section_header())
                continue
            (kind,) = struct.unpack(section.order + "I", kind_bytes)
            handler = handlers.get(kind)
            if handler is None:
                self._block(section.order, keep=False)
                continue
            if kind != BLOCK_INTERFACE:
                self.record_count += 1
            record = handler(section, self._block(section.order))
            if record is not None:
                yield record

    def _section_header(self) -> str:
        """Read a section header after its type; return the section's byte order."""
        length_bytes, magic = self._read(4, "a section"), self._read(4, "a section")
        order = BYTE_ORDERS.get(magic)
        if order is None:
            self._refuse(f"a section with byte-order magic {magic.hex()}")
        (length,) = struct.unpack(order + "I", length_bytes)
        if length < 28 or length % 4 or length > BLOCK_BYTES_MAX:
            self._refuse(f"a section header of {length} bytes")
        body = self._read(length - 12, "a section")
        major, minor = struct.unpack_from(order + "HH", body)
        if major != 1:
            self._refuse(f"pcapng version {major}.{minor}; 1.0 is known")
        if struct.unpack(order + "I", body[-4:])[0] != length:
            self._refuse("a section header whose two lengths differ")
        return order

    def _block(self, order: str, keep: bool = True) -> bytes:
        """Read a block after its type and return its body, or pass over it."""
        (length,) = struct.unpack(order + "I", self._read(4, "a block length"))
        if length < 12 or length % 4:
            self._refuse(f"a block of {length} bytes")
        if keep:
            if length > BLOCK_BYTES_MAX:
                self._refuse(f"a block of {length} bytes; the limit is {BLOCK_BYTES_MAX}")
            body = self._read(length - 12, "a block")
        else:
            body = b""
            left = length - 12
            while left:
                left -= len(self._read(min(left, SKIP_BYTES), "a block"))
        if struct.unpack(order + "I", self._read(4, "a block length"))[0] != length:
            self._refuse("a block whose two lengths differ")
        return body

    def check_linktype(self, linktype: int) -> None:
        """Refuse what is no Ethernet."""
        if linktype != LINKTYPE_ETHERNET:
            self._refuse(f"link type {linktype}; only Ethernet ({LINKTYPE_ETHERNET}) is bridged")

    def check_lengths(self, captured: int, length: int, room: int = CAPLEN_MAX) -> None:
        """Refuse a record that says it holds more than there was, or than we would hold.

        ``room`` is what the block around it, if any, leaves for the frame.
        """
        if captured > CAPLEN_MAX:
            self._refuse(f"a frame of {captured} bytes; the limit is {CAPLEN_MAX}")
        if captured > length:
            self._refuse(f"{captured} bytes captured of a frame of {length}")
        if captured > room:
            self._refuse(f"{captured} bytes captured in a block with room for {room}")

    def refuse(self, problem: str) -> NoReturn:
        """Raise the error for the present record."""
        self._refuse(problem)

    def _refuse(self, problem: str) -> NoReturn:
        where = f"record {self.record_count}: " if self.record_count else ""
        raise NetstackError(errno.EINVAL, f"{self.name}: {where}{problem}")

    def _read(self, nbytes: int, what: str) -> bytes:
        """Read exactly ``nbytes``, which the caller has bounded."""
        data = self._stream.read(nbytes)
        while len(data) < nbytes:
            more = self._stream.read(nbytes - len(data))
            if not more:
                self._refuse(f"the file ends inside {what} ({len(data)} of {nbytes} bytes)")
            data += more
        return data

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def close(self) -> None:
        """Close the file if it was opened here; harmless when repeated."""
        if self._owned:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Section:
    """A pcapng section: its byte order and interfaces, and what its blocks mean."""

    def __init__(self, reader: PcapReader, order: str) -> None:
        self.reader = reader
        self.order = order
        self.interfaces: list[Interface] = []

    def _unpack(self, fields: str, body: bytes) -> tuple[int, ...]:
        """Take the fixed fields at the beginning of a block."""
        layout = struct.Struct(self.order + fields)
        if len(body) < layout.size:
            self.reader.refuse(f"a block with {len(body)} of its {layout.size} first bytes")
        return layout.unpack_from(body)

    def add_interface(self, body: bytes) -> None:
        """Interface description block."""
        linktype, _, snaplen = self._unpack("HHI", body)
        self.reader.check_linktype(linktype)
        if len(self.interfaces) == INTERFACES_MAX:
            self.reader.refuse(f"more than {INTERFACES_MAX} interfaces")
        interface = Interface(snaplen)
        for code, value in self._options(body, 8):
            if code == OPTION_TSRESOL and value:
                exponent = value[0] & 0x7F
                if exponent > 63:
                    self.reader.refuse(f"a time resolution of {value[0]:#04x}")
                interface.units_per_s = 2**exponent if value[0] & 0x80 else 10**exponent
            elif code == OPTION_TSOFFSET and len(value) == 8:
                (interface.offset_s,) = struct.unpack(self.order + "q", value)
            elif code == OPTION_FCSLEN and value:
                interface.fcs_bytes = value[0]
        self.interfaces.append(interface)

    def _options(self, body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        while at + 4 <= len(body):
            code, length = struct.unpack_from(self.order + "HH", body, at)
            at += 4
            if code == OPTION_END:
                return
            if at + length > len(body):
                self.reader.refuse(f"an option of {length} bytes in a block with {len(body) - at}")
            yield code, body[at : at + length]
            at += (length + 3) & ~3

    def enhanced(self, body: bytes) -> Record:
        """Enhanced packet block."""
        interface, high, low, captured, length = self._unpack("IIIII", body)
        return self._record(body, 20, interface, high << 32 | low, captured, length)

    def packet(self, body: bytes) -> Record:
        """Packet block (obsolete)."""
        interface, _, high, low, captured, length = self._unpack("HHIIII", body)
        return self._record(body, 20, interface, high << 32 | low, captured, length)

    def simple(self, body: bytes) -> Record:
        """Simple packet block: no time, interface 0, cut to its snapshot length."""
        (length,) = self._unpack("I", body)
        snaplen = self._interface(0).snaplen
        captured = min(length, snaplen) if snaplen else length
        return self._record(body, 4, 0, 0, captured, length)

    def _interface(self, index: int) -> Interface:
        if index >= len(self.interfaces):
            self.reader.refuse(f"a frame of interface {index}; the section has {len(self.interfaces)}")
        return self.interfaces[index]

    def _record(self, body: bytes, at: int, index: int, time_units: int, captured: int, length: int) -> Record:
        interface = self._interface(index)
        self.reader.check_lengths(captured, length, len(body) - at)
        time_ns = interface.offset_s * 10**9 + time_units * 10**9 // interface.units_per_s
        return finished(body[at : at + captured], length, time_ns, index, interface.fcs_bytes)


def finished(frame: bytes, length: int, time_ns: int, interface: int, fcs_bytes: int) -> Record:
    """Return the record without the FCS, as much of it as was captured."""
    wire_bytes = max(length - fcs_bytes, 0)
    return Record(frame[:wire_bytes], time_ns, interface, wire_bytes)
