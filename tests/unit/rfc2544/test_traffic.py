"""Frames, addresses and flows that the far ends send."""

import struct

import pytest

from netstack._fast.rss import Rss
from netstack.rfc2544 import traffic


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def queue_chooser(queue_count: int):
    table = bytes(slot % queue_count for slot in range(128))
    return Rss(table=table).queue


# Paper §6.1 and Table 3: the wire rate of both directions, kilo frames per second.
@pytest.mark.parametrize(("size", "kfps"), [(74, 2659.6), (256, 905.8), (512, 469.9), (768, 317.3), (1518, 162.55)])
def test_wire_rate_is_the_papers(size, kfps):
    assert 2 * traffic.wire_fps(size) / 1e3 == pytest.approx(kfps, rel=2e-4)


def test_addresses_are_unicast_local_and_distinct():
    both = traffic.addresses(0, 3000) + traffic.addresses(1, 3000)
    assert len(set(both)) == 6000
    assert all(mac[0] & 3 == 2 and len(mac) == 6 for mac in both)


@pytest.mark.parametrize("nbytes", [60, 70, 1514])
def test_frame_is_valid_udp(nbytes):
    flow = traffic.flows(0, 1, 1, lambda frame: 0, 1)[0]
    frame = traffic.frame_of(flow, nbytes)
    assert len(frame) == nbytes
    assert frame[:16] == flow.destination + flow.source + b"\x08\x00\x45\x00"
    assert checksum(frame[14:34]) == 0xFFFF
    assert struct.unpack(">H", frame[16:18])[0] == nbytes - 14
    assert frame[23] == 17 and struct.unpack(">HH", frame[34:38]) == (1024, 7)


@pytest.mark.parametrize("queue_count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 10, 1000])
def test_flows_spread_evenly_and_name_every_station(queue_count, count):
    chooser = queue_chooser(queue_count)
    streams = traffic.flows(1, count, 7, chooser, queue_count)
    assert {flow.source for flow in streams} == set(traffic.addresses(1, count))
    assert {flow.destination for flow in streams} == set(traffic.addresses(0, count))
    blocks = traffic.headers_by_queue(streams, chooser, queue_count)
    assert len({len(block) for block in blocks}) == 1
    assert sum(map(len, blocks)) == traffic.BLOCK_BYTES * len(streams)


def test_who_talks_to_whom_depends_on_the_seed_alone():
    def of(seed):
        return traffic.flows(0, 100, seed, lambda frame: 0, 1)

    assert of(3) == of(3) != of(4)


def test_a_hash_that_ignores_ports_is_named():
    with pytest.raises(ValueError, match="does the NIC hash UDP"):
        traffic.flows(0, 1, 1, lambda frame: 0, 2)
