"""Frames for tests: made of numbers, and recognised again when they come out somewhere."""

import struct

__all__ = ["BROADCAST", "frame", "headers", "ipv4", "ipv6", "serial_of", "station"]

BROADCAST = b"\xff" * 6
HEADER_BYTES = 14


def station(number: int) -> bytes:
    """Return a station's address; never one of a machine's own (those begin with 02)."""
    return b"\x0a\x00" + number.to_bytes(4, "big")


def frame(
    dst: bytes, src: bytes, serial: int = 0, nbytes: int = 60, ethertype: int = 0x0800
) -> bytes:
    """Return a frame of ``nbytes`` bytes without FCS that carries a serial number."""
    head = dst + src + ethertype.to_bytes(2, "big") + serial.to_bytes(4, "big")
    return head.ljust(nbytes, b"\xa5")[:nbytes]


def serial_of(received: bytes) -> int:
    """Return the serial number of a frame made by ``frame``."""
    return int.from_bytes(received[HEADER_BYTES : HEADER_BYTES + 4], "big")


def headers(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """Return a generator's header blocks of (destination, source) pairs, 16 bytes each."""
    return b"".join(dst + src + b"\x08\x00\x45\x00" for dst, src in pairs)


def ipv4(
    source: str,
    destination: str,
    ports: tuple[int, int] | None = None,
    *,
    proto: int = 17,
    fragment: int = 0,
    options: bytes = b"",
    tags: bytes = b"",
) -> bytes:
    """Return an Ethernet frame with an IPv4 header (``fragment``: that 16-bit field) and ports."""
    words = 5 + len(options) // 4
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | words,
        0,
        4 * words + 8,
        0,
        fragment,
        64,
        proto,
        0,
        bytes(map(int, source.split("."))),
        bytes(map(int, destination.split("."))),
    )
    payload = struct.pack(">HH", *ports) if ports is not None else b""
    return station(1) + station(2) + tags + b"\x08\x00" + head + options + payload + bytes(4)


def ipv6(
    source: bytes, destination: bytes, ports: tuple[int, int] | None = None, *, proto: int = 17
) -> bytes:
    """Return an Ethernet frame with an IPv6 header between two 16-byte addresses."""
    head = struct.pack(">IHBB", 6 << 28, 8, proto, 64) + source + destination
    payload = struct.pack(">HH", *ports) if ports is not None else b""
    return station(1) + station(2) + b"\x86\xdd" + head + payload + bytes(4)
