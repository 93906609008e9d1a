"""Receive side scaling: published vectors, a bitwise oracle, and which bytes of a frame count (paper §5.3)."""

import pytest
from frames import BROADCAST, frame, ipv4, ipv6, station
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack._fast.rss import DEFAULT_KEY, Rss, toeplitz

SYMMETRIC_KEY = bytes.fromhex("6d5a") * 20
TCP, UDP, ICMP = 6, 17, 1

V6_SOURCE = bytes.fromhex("3ffe250102001fff0000000000000007")
V6_TARGET = bytes.fromhex("3ffe2501020000030000000000000001")

# Microsoft, "Verifying the RSS Hash Calculation": addresses, ports, hash without and with the ports.
VECTORS = [
    ("66.9.149.187", "161.142.100.80", (2794, 1766), 0x323E8FC2, 0x51CCC178, 0x9FCC9FCC),
    ("199.92.111.2", "65.69.140.83", (14230, 4739), 0xD718262A, 0xC626B0EA, 0x60D760D7),
]
V6_VECTOR = (V6_SOURCE, V6_TARGET, (2794, 1766), 0x2CC18CD5, 0x40207D3D, 0x13EB13EB)


def v4(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def ports_of(ports: tuple[int, int]) -> bytes:
    return ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big")


def oracle(key: bytes, data: bytes) -> int:
    """Toeplitz as it is defined: one XOR of a 32-bit window for each input bit that is set."""
    key_bits = int.from_bytes(key, "big")
    result = 0
    for at in range(8 * len(data)):
        if data[at // 8] >> (7 - at % 8) & 1:
            result ^= key_bits >> (8 * len(key) - 32 - at) & 0xFFFFFFFF
    return result


@pytest.mark.parametrize(("source", "target", "ports", "plain", "full", "both_ways"), VECTORS)
def test_published_vectors_of_ipv4(
    source: str, target: str, ports: tuple[int, int], plain: int, full: int, both_ways: int
) -> None:
    data = v4(source) + v4(target)
    assert toeplitz(DEFAULT_KEY, data) == plain
    assert toeplitz(DEFAULT_KEY, data + ports_of(ports)) == full
    assert toeplitz(SYMMETRIC_KEY, data + ports_of(ports)) == both_ways
    back = v4(target) + v4(source) + ports_of((ports[1], ports[0]))
    assert toeplitz(SYMMETRIC_KEY, back) == both_ways
    rss = Rss()
    for proto in (TCP, UDP):
        assert rss.hash(ipv4(source, target, ports, proto=proto)) == full
    assert rss.hash(ipv4(source, target, ports, proto=ICMP)) == plain


def test_published_vector_of_ipv6() -> None:
    source, target, ports, plain, full, both_ways = V6_VECTOR
    assert toeplitz(DEFAULT_KEY, source + target) == plain
    assert toeplitz(DEFAULT_KEY, source + target + ports_of(ports)) == full
    assert toeplitz(SYMMETRIC_KEY, source + target + ports_of(ports)) == both_ways
    rss = Rss()
    assert rss.hash(ipv6(source, target, ports)) == full
    assert rss.hash(ipv6(source, target, ports, proto=TCP)) == full
    assert rss.hash(ipv6(source, target, ports, proto=58)) == plain


@given(key=st.binary(min_size=40, max_size=40), data=st.binary(min_size=1, max_size=36))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_toeplitz_is_its_definition(key: bytes, data: bytes) -> None:
    assert toeplitz(key, data) == oracle(key, data)


@pytest.mark.parametrize(
    ("key", "data"), [(bytes(39), b"x"), (bytes(41), b"x"), (bytes(40), b""), (bytes(40), bytes(37))]
)
def test_wrong_lengths_are_refused(key: bytes, data: bytes) -> None:
    with pytest.raises(ValueError, match="40 bytes"):
        toeplitz(key, data)


def test_a_fragment_has_no_ports_whichever_it_is() -> None:
    source, target, ports, plain, full, _ = VECTORS[0]
    rss = Rss()
    for fragment in (0x2000, 0x0001, 0x00FF, 0x1F00, 0x2010):
        assert rss.hash(ipv4(source, target, ports, fragment=fragment)) == plain
    assert rss.hash(ipv4(source, target, ports, fragment=0x4000)) == full  # don't fragment


def test_ports_come_after_the_options() -> None:
    source, target, ports, _, full, _ = VECTORS[0]
    assert Rss().hash(ipv4(source, target, ports, options=b"\x01" * 12)) == full


@pytest.mark.parametrize("tags", [b"\x81\x00\x00\x05", b"\x81\x00\x00\x05\x81\x00\x00\x06"])
def test_vlan_tags_are_stepped_over(tags: bytes) -> None:
    source, target, ports, _, full, _ = VECTORS[0]
    assert Rss().hash(ipv4(source, target, ports, tags=tags)) == full


def test_udp_can_be_left_out() -> None:
    source, target, ports, plain, full, _ = VECTORS[0]
    rss = Rss(udp=False)
    assert rss.hash(ipv4(source, target, ports, proto=UDP)) == plain
    assert rss.hash(ipv4(source, target, ports, proto=TCP)) == full


def test_other_frames_hash_to_zero_and_go_to_the_first_entrys_queue() -> None:
    rss = Rss(table=bytes([3]) + bytes([1]) * 127)
    whole = ipv4(*VECTORS[0][:3])
    for other in (
        frame(BROADCAST, station(1), ethertype=0x0806),
        frame(station(1), station(2), nbytes=14, ethertype=0x0800),
        whole[:33],  # half an IPv4 header
        b"",
        b"short",
        whole[:14] + b"\x65" + whole[15:],  # version 6 inside 0x0800
    ):
        assert (rss.hash(other), rss.queue(other)) == (0, 3)


def test_a_header_without_its_ports_hashes_the_addresses() -> None:
    source, target, ports, plain, _, _ = VECTORS[0]
    assert Rss().hash(ipv4(source, target, ports)[:37]) == plain


def test_the_queue_is_the_tables_entry_of_the_low_seven_bits() -> None:
    table = bytes((7 * i + 3) % 128 for i in range(128))
    rss = Rss(table=table)
    assert rss.table == table
    for i in range(64):
        each = ipv4("10.0.0.1", "10.0.1.7", (i, 7))
        assert rss.queue(each) == table[rss.hash(each) & 127]
    rss.table = bytes([5]) * 128
    assert rss.queue(each) == 5
    with pytest.raises(ValueError, match="128"):
        rss.table = bytes(127)
    with pytest.raises(ValueError, match="40"):
        Rss(key=bytes(10))


@given(
    source=st.binary(min_size=4, max_size=4),
    target=st.binary(min_size=4, max_size=4),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    proto=st.sampled_from([TCP, UDP, ICMP]),
    key=st.binary(min_size=40, max_size=40),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_a_frames_hash_is_that_of_its_fields(
    source: bytes, target: bytes, ports: tuple[int, int], proto: int, key: bytes
) -> None:
    data = source + target + (ports_of(ports) if proto != ICMP else b"")
    dotted = [".".join(map(str, address)) for address in (source, target)]
    assert Rss(key).hash(ipv4(*dotted, ports, proto=proto)) == oracle(key, data)


def test_packets_of_another_implementation_hash_alike() -> None:
    scapy = pytest.importorskip("scapy.all", reason="scapy is an oracle, not a requirement")
    source, target, ports, plain, full, _ = VECTORS[0]
    rss = Rss()
    l2, l3 = scapy.Ether(src="0a:00:00:00:00:01"), scapy.IP(src=source, dst=target)
    for l4 in (scapy.UDP, scapy.TCP):
        assert rss.hash(bytes(l2 / l3 / l4(sport=ports[0], dport=ports[1]))) == full
        tagged = l2 / scapy.Dot1Q(vlan=7) / l3 / l4(sport=ports[0], dport=ports[1])
        assert rss.hash(bytes(tagged)) == full
    assert rss.hash(bytes(l2 / l3 / scapy.ICMP())) == plain
    six = scapy.IPv6(src="3ffe:2501:200:1fff::7", dst="3ffe:2501:200:3::1")
    packet = l2 / six / scapy.UDP(sport=V6_VECTOR[2][0], dport=V6_VECTOR[2][1])
    assert rss.hash(bytes(packet)) == V6_VECTOR[4]
