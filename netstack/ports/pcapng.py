"""A writer of pcapng files (IETF draft draft-ietf-opsawg-pcapng), one section, nanoseconds.

Context: control; buffered, so call ``flush`` before somebody else reads.
"""

import errno
import os
import struct
import time
from types import TracebackType
from typing import BinaryIO, Self

from netstack.errors import NetstackError
from netstack.ports.pcap import (
    BLOCK_ENHANCED,
    BLOCK_INTERFACE,
    BLOCK_SECTION,
    CAPLEN_MAX,
    LINKTYPE_ETHERNET,
    OPTION_END,
    OPTION_TSRESOL,
)

__all__ = ["PcapngWriter"]

BYTE_ORDER_MAGIC = 0x1A2B3C4D
LENGTH_UNKNOWN = 0xFFFFFFFFFFFFFFFF
OPTION_IF_NAME = 2
OPTION_USER_APPLICATION = 4
RESOLUTION_NS = 9  # 10**-9 s
ENHANCED = struct.Struct("<IIIIIII")
ENHANCED_BYTES = 32  # an enhanced packet block without its frame


class PcapngWriter:
    """A capture file under construction.

    Args:   target -- a path, or a binary stream, which stays the caller's to close.
            overwrite -- replace an existing file.
    Raises: NetstackError -- EEXIST unless ``overwrite``; whatever the host says of the path.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, *, overwrite: bool = False) -> None:
        self._owned = isinstance(target, str | os.PathLike)
        self.frame_count = 0
        self.interfaces: list[str] = []
        if isinstance(target, str | os.PathLike):
            self.name = os.fspath(target)
            try:
                self._stream: BinaryIO = open(target, "wb" if overwrite else "xb")
            except FileExistsError:
                raise NetstackError(errno.EEXIST, f"{self.name}: exists; remove it or choose another name") from None
            except (OSError, ValueError) as problem:
                reason = getattr(problem, "strerror", None) or problem
                raise NetstackError(getattr(problem, "errno", None) or errno.EINVAL, f"{self.name}: {reason}") from None
        else:
            self.name = str(getattr(target, "name", "capture"))
            self._stream = target
        header = struct.pack("<IHHQ", BYTE_ORDER_MAGIC, 1, 0, LENGTH_UNKNOWN)
        self._block(BLOCK_SECTION, header + options((OPTION_USER_APPLICATION, b"netstack")))

    def add_interface(self, name: str) -> int:
        """Describe an Ethernet interface; return the index that ``write`` takes."""
        body = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, CAPLEN_MAX)
        body += options(
            (OPTION_IF_NAME, name.encode("utf-8", "replace")[:0xFFFF]),
            (OPTION_TSRESOL, bytes([RESOLUTION_NS])),
        )
        self._block(BLOCK_INTERFACE, body)
        self.interfaces.append(name)
        return len(self.interfaces) - 1

    def write(self, interface: int, frame: bytes, time_ns: int | None = None) -> None:
        """Append one frame (without FCS); the time is now unless given, in ns since 1970.

        Raises: NetstackError(EINVAL) -- no such interface, a frame over ``CAPLEN_MAX`` bytes, or a
                time that 64 bits cannot hold.
        """
        if not 0 <= interface < len(self.interfaces):
            raise NetstackError(errno.EINVAL, f"{self.name}: no interface {interface}")
        length = len(frame)
        if length > CAPLEN_MAX:
            raise NetstackError(errno.EINVAL, f"{self.name}: a frame of {length} bytes; the limit is {CAPLEN_MAX}")
        stamp = time.time_ns() if time_ns is None else time_ns
        if not 0 <= stamp < 1 << 64:
            raise NetstackError(errno.EINVAL, f"{self.name}: no time a file can hold: {stamp}")
        padding = -length % 4
        total = ENHANCED_BYTES + length + padding
        self._stream.write(
            ENHANCED.pack(BLOCK_ENHANCED, total, interface, stamp >> 32, stamp & 0xFFFFFFFF, length, length)
        )
        self._stream.write(frame)
        self._stream.write(bytes(padding) + struct.pack("<I", total))
        self.frame_count += 1

    def _block(self, kind: int, body: bytes) -> None:
        total = len(body) + 12
        self._stream.write(struct.pack("<II", kind, total) + body + struct.pack("<I", total))

    def flush(self) -> None:
        """Hand what is buffered to the host."""
        self._stream.flush()

    def close(self) -> None:
        """Flush, and close the file if it was opened here; harmless when repeated."""
        if not self._stream.closed:
            self._stream.flush()
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


def options(*pairs: tuple[int, bytes]) -> bytes:
    """Return options as they stand in a block, with the one that ends them."""
    packed = [struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in pairs]
    return b"".join([*packed, struct.pack("<HH", OPTION_END, 0)])
