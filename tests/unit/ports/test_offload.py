"""Checksums filled in and long frames cut in software, against scapy and a direct computation."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.ports.rig import BLOCK_BYTES, Rig, Ring, pair, vnet

from netstack._fast.hostport import PacketRx, PacketTx, TapRx, TapTx

scapy_all = pytest.importorskip("scapy.all")
IP, IPv6, TCP, UDP, Ether, Dot1Q, Raw = (
    getattr(scapy_all, name) for name in ("IP", "IPv6", "TCP", "UDP", "Ether", "Dot1Q", "Raw")
)

NEEDS_CSUM = 1
TCPV4, TCPV6, UDP_L4 = 1, 4, 5
ECN = 0x80


def ones_sum(data):
    """16-bit one's complement sum of network-order words (RFC 1071), the slow way."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(packet, length):
    ip = packet[IPv6] if IPv6 in packet else packet[IP]
    family = socket.AF_INET6 if IPv6 in packet else socket.AF_INET
    addresses = socket.inet_pton(family, ip.src) + socket.inet_pton(family, ip.dst)
    return addresses + struct.pack("!II", 6 if TCP in packet else 17, length)


def opened(packet):
    """The packet's bytes with its transport checksum left open, and where that begins."""
    data = bytes(packet)
    layer = TCP if TCP in packet else UDP
    length = len(packet[layer])
    start, offset = len(data) - length, 16 if layer is TCP else 6
    partial = struct.pack("!H", ones_sum(pseudo(packet, length)))
    return data[: start + offset] + partial + data[start + offset + 2 :], start, offset


def check(frame):
    """Both checksums of a frame are right, by summing to all ones; returns it parsed."""
    packet = Ether(frame)
    layer = TCP if TCP in packet else UDP
    start = len(frame) - len(bytes(packet[layer]))
    assert ones_sum(pseudo(packet, len(frame) - start) + frame[start:]) == 0xFFFF
    if IP in packet:
        at = frame.index(bytes(packet[IP])[:20])
        assert ones_sum(frame[at : at + packet[IP].ihl * 4]) == 0xFFFF
        assert packet[IP].len == len(frame) - at
    return packet


def base(version, tags=0, options=False):
    packet = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    for tag in range(tags):
        packet /= Dot1Q(vlan=10 + tag)
    if version == 4:
        more = {"options": [scapy_all.IPOption(b"\x94\x04\x00\x00")]} if options else {}
        return packet / IP(src="10.0.0.1", dst="10.0.0.2", id=65535, flags="DF", **more)
    packet /= IPv6(src="fd00::1", dst="fd00::2")
    return packet / scapy_all.IPv6ExtHdrDestOpt() if options else packet


def through_tap(frame, header):
    """Receive from a TAP with offload headers, send to one without: what comes out."""
    (here, there), (left, right) = pair(), pair()
    with here, there, left, right:
        rig = Rig()
        source = rig.interface(rx=TapRx(here.fileno()))
        target = rig.interface(tx=TapTx(left.fileno(), False))
        there.send(header + frame)
        rig.forward(source, target)
        out = []
        while True:
            try:
                out.append(right.recv(1 << 17))
            except BlockingIOError:
                break
        assert rig.is_whole
        return out, target.drops(), target.counters()


def through_ring(frame, header, limit=256, tag=None):
    """Receive from a packet ring that finishes offloaded frames: what comes in."""
    ring, rig = Ring(), Rig()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        ifp = rig.interface(rx=PacketRx(control.fileno(), ring.memory, BLOCK_BYTES, False))
        ring.fill([(header, frame, {} if tag is None else {"tci": tag})])
        out = []
        while batch := rig.frames(ifp, limit):
            out += batch
        assert ring.status(0) == 0 and rig.is_whole
        return out, ifp.drops()


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("layer", [TCP, UDP])
def test_open_checksum(version, tags, options, layer):
    for size in (0, 1, 7, 1400, 3000, 3001):
        load = bytes(i * 31 & 0xFF for i in range(size))
        packet = base(version, tags, options) / layer(sport=1, dport=2) / Raw(load)
        frame, start, offset = opened(packet)
        header = vnet(NEEDS_CSUM, 0, 0, 0, start, offset)
        [out], drops, _ = through_tap(frame, header)
        assert check(out) and not drops
        assert out[:start] == frame[:start]
        assert through_ring(frame, header)[0] == [out]


def test_checksum_that_sums_to_zero_is_sent_as_all_ones():
    packet = base(4) / UDP(sport=1, dport=2) / Raw(b"\0\0")
    frame, start, offset = opened(packet)
    missing = 0xFFFF - ones_sum(frame[start:])
    frame = frame[:-2] + struct.pack("!H", missing)
    [out], _, _ = through_tap(frame, vnet(NEEDS_CSUM, 0, 0, 0, start, offset))
    assert out[start + 6 : start + 8] == b"\xff\xff"


@pytest.mark.parametrize("has_csum", [True, False])
@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 6])
def test_tcp_is_cut(version, tags, options, has_csum):
    load = bytes(i * 31 + i // 256 & 0xFF for i in range(10_001))
    more = [("Timestamp", (1, 2))] if options else []
    start_sequence = 2**32 - 3000
    tcp = TCP(sport=1, dport=2, seq=start_sequence, ack=9, flags="FPAC", window=77, options=more)
    frame, start, offset = opened(base(version, tags, options) / tcp / Raw(load))
    kind = (TCPV4 if version == 4 else TCPV6) | ECN
    header = vnet(NEEDS_CSUM if has_csum else 0, kind, 0, 1400, start if has_csum else 0, offset)
    out, drops, counters = through_tap(frame, header)
    packets = [check(piece) for piece in out]
    assert not drops and counters["opackets"] == 1
    assert len(packets) == 8 and all(len(p[TCP].payload) == 1400 for p in packets[:-1])
    assert b"".join(bytes(p[TCP].payload) for p in packets) == load
    assert [p[TCP].seq for p in packets] == [(start_sequence + 1400 * i) % 2**32 for i in range(8)]
    assert [str(p[TCP].flags) for p in packets] == ["AC"] + ["A"] * 6 + ["FPA"]
    assert {(p[TCP].ack, p[TCP].window) for p in packets} == {(9, 77)}
    if version == 4:
        assert [p[IP].id for p in packets] == [(65535 + i) % 65536 for i in range(8)]
    assert through_ring(frame, header)[0] == out
    assert through_ring(frame, header, limit=3)[0] == out


def test_udp_is_cut():
    frame, start, offset = opened(base(4) / UDP(sport=1, dport=2) / Raw(bytes(2500)))
    out, drops, _ = through_tap(frame, vnet(NEEDS_CSUM, UDP_L4, 42, 1000, start, offset))
    packets = [check(piece) for piece in out]
    assert not drops and [p[UDP].len for p in packets] == [1008, 1008, 508]


def test_ring_cuts_with_the_tag_put_back():
    frame, start, offset = opened(base(4) / TCP() / Raw(bytes(3000)))
    out, _ = through_ring(frame, vnet(NEEDS_CSUM, TCPV4, 54, 1448, start, offset), tag=0x2005)
    packets = [check(piece) for piece in out]
    assert len(packets) == 3
    assert {(p[Dot1Q].vlan, p[Dot1Q].prio) for p in packets} == {(5, 1)}


def refused_frames():
    tcp, start, offset = opened(base(4) / TCP() / Raw(bytes(3000)))
    yield "not IP", b"\2" * 12 + b"\x88\xb5" + bytes(3000), vnet(1, TCPV4, 54, 1448, 34, 16)
    yield "IPv4 said to be IPv6", tcp, vnet(1, TCPV6, 54, 1448, start, offset)
    yield "TCP said to be UDP", tcp, vnet(1, UDP_L4, 54, 1448, start, offset)
    yield "no segment size", tcp, vnet(1, TCPV4, 54, 0, start, offset)
    yield "checksum of an inner header", tcp, vnet(1, TCPV4, 54, 1448, start + 50, offset)
    yield "unknown type", tcp, vnet(1, 3, 54, 1448, start, offset)
    yield "header alone", tcp[:54], vnet(1, TCPV4, 54, 1448, start, offset)
    yield "half a header", tcp[:40], vnet(1, TCPV4, 54, 1448, start, offset)
    yield "fragment", tcp[:20] + b"\x20\x01" + tcp[22:], vnet(1, TCPV4, 54, 1448, start, offset)
    short = tcp[:46] + b"\x10" + tcp[47:]
    yield "TCP header of 4 bytes", short, vnet(1, TCPV4, 54, 1448, start, offset)


@pytest.mark.parametrize(("frame", "header"), [c[1:] for c in refused_frames()])
def test_what_cannot_be_cut_is_dropped_by_name(frame, header):
    out, drops, counters = through_tap(frame, header)
    assert (out, drops, counters["opackets"]) == ([], {"tx_error": 1}, 0)
    assert through_ring(frame, header) == ([], {"giant": 1})


def test_checksum_field_outside_the_frame_is_refused():
    for start, offset in ((60000, 16), (34, 60000), (13, 0), (58, 1), (65535, 65535)):
        out, drops, _ = through_tap(bytes(60), vnet(NEEDS_CSUM, 0, 0, 0, start, offset))
        assert (out, drops) == ([], {"tx_error": 1}), (start, offset)


@given(st.binary(min_size=14, max_size=300), st.binary(min_size=10, max_size=10), st.integers(0, 9))
def test_any_offload_state_is_survived(frame, header, kind):
    """Whatever a header says: frames come out or one named drop is counted; mbufs come back."""
    types = {0: b"\x08\x00\x45", 1: b"\x86\xdd\x60", 2: b"\x81\x00\0\0\x08\0\x45"}
    shape = types.get(kind, b"")
    frame = (frame[:12] + shape + frame[12 + len(shape) :]).ljust(14, b"\0")
    header = bytes([header[0] & 3, header[1] & 0x87]) + header[2:]
    out, drops, counters = through_tap(frame, header)
    assert counters["opackets"] + sum(drops.values()) == 1
    assert bool(out) == bool(counters["opackets"]) or drops
    through_ring(frame, header)


def test_a_cut_frame_can_outgrow_the_pool():
    frame, start, offset = opened(base(4) / TCP() / Raw(bytes(60_000)))
    ring, rig = Ring(), Rig(nmbufs=8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        ifp = rig.interface(rx=PacketRx(control.fileno(), ring.memory, BLOCK_BYTES, False))
        ring.fill([(vnet(NEEDS_CSUM, TCPV4, 54, 1000, start, offset), frame)])
        assert len(rig.frames(ifp)) == 8
        assert ifp.drops() == {"no_mbuf": 52} and ifp.counters()["ipackets"] == 60
    assert rig.is_whole


def test_packet_socket_takes_the_state_as_it_is():
    frame, start, offset = opened(base(4) / TCP() / Raw(bytes(9000)))
    header = vnet(NEEDS_CSUM, TCPV4, 54, 1448, start, offset)
    (here, there), (left, right) = pair(), pair()
    with here, there, left, right:
        rig = Rig()
        source = rig.interface(rx=TapRx(here.fileno()))
        target = rig.interface(tx=PacketTx(left.fileno()))
        there.send(header + frame)
        rig.forward(source, target)
        assert right.recv(1 << 17) == header + frame
