"""What the far ends of the wires send: frame sizes, the wire's rate, addresses and flows.

Each address of a side sends to one address of the other side, as UDP over IPv4 in the block that
RFC 2544 reserves for benchmarks (198.18.0.0/15), to the echo port (its appendix C.2.6.4).  The
source port of a flow is chosen so that the NIC's hash spreads the flows evenly over its receive
queues, as a tester with several streams would; the hash is asked, never copied.

Sizes are in bytes with the FCS, as RFC 2544 counts them.  Knows no machine.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "BLOCK_BYTES",
    "FCS_BYTES",
    "PAPER_SIZES",
    "SIZES",
    "Flow",
    "addresses",
    "flows",
    "frame_of",
    "headers_by_queue",
    "wire_fps",
]

SIZES = (64, 128, 256, 512, 1024, 1280, 1518)  # RFC 2544 section 9.1
PAPER_SIZES = (74, 128, 192, 256, 384, 512, 768, 1024, 1280, 1408, 1518)  # paper Table 3

FCS_BYTES = 4
GAP_BYTES = 20  # preamble, start delimiter, gap between frames (IEEE 802.3)
HEADER_BYTES = 42  # Ethernet, IPv4 and UDP
BLOCK_BYTES = 16  # what a generator takes of each header
ECHO_PORT = 7
FIRST_PORT = 1024

# Flows at least, so that a single pair of addresses still reaches every queue.
FLOWS_MIN = 64

# Side 0 is the far end of the first NIC.
SIDE_NETS = (0xC6120000, 0xC6130000)  # 198.18/16, 198.19/16


class Flow(NamedTuple):
    """One stream of frames in one direction: addresses of both ends and the sender's UDP port."""

    source: bytes
    destination: bytes
    source_ip: int
    destination_ip: int
    source_port: int


def wire_fps(frame_bytes: int, bits_per_s: float = 1e9) -> float:
    """Return the frames a second that fill one direction of a wire."""
    return bits_per_s / ((frame_bytes + GAP_BYTES) * 8)


def addresses(side: int, count: int) -> list[bytes]:
    """Return ``count`` locally administered unicast addresses of one side."""
    return [struct.pack(">HI", 0x0200 + (side << 4), index + 1) for index in range(count)]


def frame_of(flow: Flow, nbytes: int = 60) -> bytes:
    """Return a whole frame of the flow without FCS, its IPv4 checksum valid."""
    ip_bytes = nbytes - 14
    words = [
        0x4500,
        ip_bytes,
        0,
        0,
        0x4011,
        0,
        flow.source_ip >> 16,
        flow.source_ip & 0xFFFF,
        flow.destination_ip >> 16,
        flow.destination_ip & 0xFFFF,
    ]
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    words[5] = 0xFFFF & ~((total & 0xFFFF) + (total >> 16))
    ether = flow.destination + flow.source + b"\x08\x00"
    udp = struct.pack(">4H", flow.source_port, ECHO_PORT, ip_bytes - 20, 0)
    return (ether + struct.pack(">10H", *words) + udp).ljust(nbytes, b"\0")


def flows(side: int, count: int, seed: int, queue_of: Callable[[bytes], int], queue_count: int) -> list[Flow]:
    """Return the flows that one side sends, balanced over the receive queues of its NIC.

    Args: count -- addresses a side has; each is the source of one flow at least.
          seed -- decides which address talks to which.
          queue_of -- the NIC's choice of a receive queue for a frame.
    Returns: flow ``i`` hashes to queue ``i % queue_count``, so their number is a multiple of it.
    """
    wanted = max(count, FLOWS_MIN)
    wanted += -wanted % queue_count
    ours, theirs = addresses(side, count), addresses(1 - side, count)
    partner = np.random.Generator(np.random.PCG64([seed, side])).permutation(count)
    found = []
    for index in range(wanted):
        ours_index, theirs_index = index % count, int(partner[index % count])
        flow = Flow(
            ours[ours_index],
            theirs[theirs_index],
            SIDE_NETS[side] + 1 + ours_index,
            SIDE_NETS[1 - side] + 1 + theirs_index,
            FIRST_PORT + index // count,
        )
        found.append(_on_queue(flow, index % queue_count, queue_of))
    return found


def _on_queue(flow: Flow, queue: int, queue_of: Callable[[bytes], int]) -> Flow:
    """Change the source port of the flow until its frames hash to the queue."""
    for port in range(flow.source_port, 0x10000):
        candidate = flow._replace(source_port=port)
        if queue_of(frame_of(candidate)) == queue:
            return candidate
    raise ValueError(f"no UDP port brings {flow} to receive queue {queue}: does the NIC hash UDP?")


def headers_by_queue(streams: Sequence[Flow], queue_of: Callable[[bytes], int], queue_count: int) -> list[bytes]:
    """Return, for each receive queue, the header blocks of its flows one after the other."""
    blocks: list[list[bytes]] = [[] for _ in range(queue_count)]
    for flow in streams:
        frame = frame_of(flow)
        blocks[queue_of(frame)].append(frame[:BLOCK_BYTES])
    return [b"".join(block) for block in blocks]
