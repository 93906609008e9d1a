"""Capture files: what a good one says, and that no bad one is believed."""

import errno
import io
import resource
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.errors import NetstackError
from netstack.ports.pcap import CAPLEN_MAX, PcapReader, Record
from netstack.ports.pcapng import PcapngWriter

FRAME = bytes(range(60))


def pcap(
    records, order="<", magic=0xA1B2C3D4, linktype=1, snaplen=65535, version=(2, 4)
):  # records: (seconds, part, captured, length, data)
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, linktype)
    for seconds, part, captured, length, data in records:
        out += struct.pack(order + "IIII", seconds, part, captured, length) + data
    return out


def block(kind, body, order="<", total=None, trailer=None):
    total = len(body) + 12 if total is None else total
    trailer = total if trailer is None else trailer
    return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", trailer)


def section(order="<", version=(1, 0)):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, -1), order)


def interface(order="<", linktype=1, snaplen=0, options=b""):
    return block(1, struct.pack(order + "HHI", linktype, 0, snaplen) + options, order)


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(data=FRAME, order="<", index=0, units=0, captured=None, length=None):
    captured = len(data) if captured is None else captured
    length = captured if length is None else length
    fixed = struct.pack(order + "IIIII", index, units >> 32, units & 0xFFFFFFFF, captured, length)
    return block(6, fixed + data + bytes(-len(data) % 4), order)


def read(data):
    return list(PcapReader(io.BytesIO(data), "x.pcap"))


def refusal(data):
    """The error and the records before it."""
    good = []
    with pytest.raises(NetstackError) as caught:
        for record in PcapReader(io.BytesIO(data), "x.pcap"):
            good.append(record)
    assert caught.value.errno == errno.EINVAL
    assert "x.pcap" in str(caught.value)
    return str(caught.value), good


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap_byte_orders_and_resolutions(order, magic, unit):
    data = pcap([(5, 7, 60, 60, FRAME), (6, 8, 20, 90, FRAME[:20])], order, magic)
    assert read(data) == [
        Record(FRAME, 5 * 10**9 + 7 * unit, 0, 60),
        Record(FRAME[:20], 6 * 10**9 + 8 * unit, 0, 90),
    ]


@pytest.mark.parametrize("order", "<>")
def test_pcapng_blocks_and_orders(order):
    simple = block(3, struct.pack(order + "I", 60) + FRAME, order)
    obsolete = block(2, struct.pack(order + "HHIIII", 0, 0, 0, 4, 60, 60) + FRAME, order)
    unknown = block(0x0BAD, bytes(100_000), order)
    data = section(order) + interface(order) + enhanced(order=order, units=3) + unknown
    assert read(data + simple + obsolete) == [
        Record(FRAME, 3000, 0, 60),
        Record(FRAME, 0, 0, 60),
        Record(FRAME, 4000, 0, 60),
    ]


def test_pcapng_sections_of_both_orders_have_their_own_interfaces():
    data = section("<") + interface("<") + enhanced() + section(">") + interface(">")
    data += enhanced(order=">")
    assert [record.frame for record in read(data)] == [FRAME, FRAME]
    message, good = refusal(section() + interface() + enhanced() + section() + enhanced())
    assert "interface 0" in message and len(good) == 1


def test_pcapng_time_resolution_and_offset():
    nano = interface(options=option(9, b"\x09") + option(14, struct.pack("<q", 10)) + option(0, b""))
    binary = interface(options=option(9, b"\x8a"))  # units of 2**-10 s
    data = section() + nano + binary + enhanced(units=5) + enhanced(index=1, units=1024)
    assert [record.time_ns for record in read(data)] == [10 * 10**9 + 5, 10**9]


def test_simple_packet_is_cut_to_the_snapshot_length():
    data = section() + interface(snaplen=20) + block(3, struct.pack("<I", 1000) + FRAME[:20])
    assert read(data) == [Record(FRAME[:20], 0, 0, 1000)]


def test_declared_fcs_is_cut_off():
    assert read(pcap([(0, 0, 64, 64, FRAME + b"FCS!")], linktype=0x24000001))[0].frame == FRAME
    data = section() + interface(options=option(13, b"\x04")) + enhanced(FRAME + b"FCS!")
    assert read(data) == [Record(FRAME, 0, 0, 60)]


def test_time_may_go_backwards_and_frames_may_be_empty():
    data = pcap([(9, 0, 0, 0, b""), (1, 0, 60, 60, FRAME)])
    assert [record.time_ns for record in read(data)] == [9 * 10**9, 10**9]


@pytest.mark.parametrize(
    "data",
    [b"", b"\xa1\xb2", b"not a capture file", bytes(24), pcap([])[:23], section()[:27]],
    ids=["empty", "half a magic", "text", "zeros", "half a header", "half a section"],
)
def test_bad_beginning(data):
    with pytest.raises(NetstackError, match=r"x\.pcap") as caught:
        PcapReader(io.BytesIO(data), "x.pcap")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ((0, 0, 61, 60, FRAME + b"x"), "61 bytes captured of a frame of 60"),
        ((0, 0, 2**32 - 1, 2**32 - 1, b""), "limit is 262144"),
        ((0, 0, CAPLEN_MAX + 1, CAPLEN_MAX + 1, b""), "limit is 262144"),
        ((0, 0, 60, 60, FRAME[:59]), "59 of 60 bytes"),
    ],
)
def test_pcap_record_that_lies(record, said):
    message, good = refusal(pcap([(0, 0, 60, 60, FRAME), record]))
    assert said in message and "record 2" in message
    assert len(good) == 1


def test_pcap_ends_inside_a_record_header():
    message, good = refusal(pcap([(0, 0, 60, 60, FRAME)]) + b"\1\2\3")
    assert "record 2" in message and len(good) == 1


@pytest.mark.parametrize(
    "bad",
    [
        enhanced(captured=61),
        enhanced(captured=100_000, length=200_000),
        enhanced(length=59),
        enhanced(index=1),
        block(6, bytes(12)),
        block(3, struct.pack("<I", 61) + FRAME),
        block(6, bytes(20), total=13),
        block(6, bytes(20), total=4),
        block(6, bytes(20), trailer=36),
        block(6, b"", total=2**32 - 4),
        block(0x0BAD, b"", total=2**32 - 4),
        section(version=(2, 0)),
        block(0x0A0D0D0A, b"\1\2\3\4" + bytes(12)),
        interface(linktype=113),
        interface(options=struct.pack("<HH", 9, 40)),
        interface(options=option(9, b"\xff")),
    ],
)
def test_pcapng_block_that_lies(bad):
    _, good = refusal(section() + interface() + enhanced() + bad)
    assert len(good) == 1


def test_only_ethernet():
    with pytest.raises(NetstackError, match="link type 101"):
        PcapReader(io.BytesIO(pcap([], linktype=101)), "x.pcap")


def test_too_many_interfaces():
    message, _ = refusal(section() + interface() * 4097)
    assert "4096 interfaces" in message


def test_paths_that_cannot_be_opened(tmp_path):
    for path, code in ((tmp_path / "none", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(NetstackError) as caught:
            PcapReader(path)
        assert caught.value.errno == code


def test_a_million_empty_records_in_bounded_memory(tmp_path):
    path = tmp_path / "long.pcap"
    with path.open("wb") as out:
        out.write(pcap([]))
        for _ in range(1000):
            out.write(struct.pack("<IIII", 0, 0, 0, 0) * 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with PcapReader(path) as reader:
        assert sum(1 for _ in reader) == 1_000_000
    scale = 1 if sys.platform == "darwin" else 1024
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale
    assert grown < 64 << 20


def test_writer_is_read_back(tmp_path):
    path = tmp_path / "out.pcapng"
    with PcapngWriter(path) as writer:
        first, second = writer.add_interface("veth0"), writer.add_interface("wm1")
        writer.write(first, FRAME, 1_700_000_000_123_456_789)
        writer.write(second, b"", 0)
        writer.write(second, bytes(CAPLEN_MAX), 5)
    with PcapReader(path) as reader:
        assert list(reader) == [
            Record(FRAME, 1_700_000_000_123_456_789, 0, 60),
            Record(b"", 0, 1, 0),
            Record(bytes(CAPLEN_MAX), 5, 1, CAPLEN_MAX),
        ]


def test_writer_is_read_by_scapy(tmp_path):
    scapy_utils = pytest.importorskip("scapy.utils")
    path = tmp_path / "out.pcapng"
    with PcapngWriter(path) as writer:
        writer.write(writer.add_interface("veth0"), FRAME, 1_700_000_000_123_456_789)
    with scapy_utils.RawPcapNgReader(str(path)) as reader:
        [(data, meta)] = list(reader)
    assert data == FRAME
    assert (meta.tshigh << 32 | meta.tslow) == 1_700_000_000_123_456_789
    assert meta.tsresol == 10**9


def test_writer_refusals(tmp_path):
    path = tmp_path / "out.pcapng"
    with PcapngWriter(path) as writer:
        index = writer.add_interface("a")
        for bad in ((1, FRAME, 0), (-1, FRAME, 0), (index, bytes(CAPLEN_MAX + 1), 0)):
            with pytest.raises(NetstackError) as caught:
                writer.write(*bad)
            assert caught.value.errno == errno.EINVAL
        with pytest.raises(NetstackError):
            writer.write(index, FRAME, -1)
        assert writer.frame_count == 0
    with pytest.raises(NetstackError) as caught:
        PcapngWriter(path)
    assert caught.value.errno == errno.EEXIST
    PcapngWriter(path, overwrite=True).close()
    with pytest.raises(NetstackError) as caught:
        PcapngWriter(tmp_path / "no" / "folder")
    assert caught.value.errno == errno.ENOENT


GOOD = (
    pcap([(1, 2, 60, 60, FRAME), (1, 3, 20, 90, FRAME[:20])]),
    section() + interface(options=option(9, b"\x09")) + enhanced() + enhanced(FRAME[:33])
    + block(3, struct.pack("<I", 60) + FRAME) + section(">") + interface(">") + enhanced(order=">"),
)  # fmt: skip


@given(st.data())
def test_a_mutated_file_gives_records_or_an_error(data):
    """Bytes changed, cut out, repeated or cut off: never another exception, never a long frame."""
    image = bytearray(data.draw(st.sampled_from(GOOD)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(image) - 1)) if image else 0
        change = data.draw(st.sampled_from(["set", "cut", "repeat", "end", "word"]))
        if change == "set" and image:
            image[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del image[at : at + data.draw(st.integers(1, 8))]
        elif change == "repeat":
            image[at:at] = image[at : at + data.draw(st.integers(1, 40))]
        elif change == "end":
            del image[at:]
        elif len(image) >= at + 4:
            word = data.draw(st.sampled_from([0, 1, 11, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF]))
            image[at : at + 4] = struct.pack("<I", word)
    try:
        for record in PcapReader(io.BytesIO(bytes(image)), "x.pcap"):
            assert len(record.frame) <= min(CAPLEN_MAX, record.wire_bytes)
    except NetstackError as problem:
        assert problem.errno == errno.EINVAL


@given(st.binary(max_size=400))
def test_random_bytes_give_an_error(data):
    try:
        list(PcapReader(io.BytesIO(data), "x.pcap"))
    except NetstackError as problem:
        assert problem.errno == errno.EINVAL


@given(
    st.lists(
        st.tuples(st.binary(max_size=2000), st.integers(0, 2**64 - 1), st.integers(0, 2)),
        max_size=20,
    )
)
def test_round_trip(frames):
    stream = io.BytesIO()
    writer = PcapngWriter(stream)
    for name in ("a", "bb", "ccc"):
        writer.add_interface(name)
    for frame, stamp, index in frames:
        writer.write(index, frame, stamp)
    writer.close()
    assert read(stream.getvalue()) == [Record(frame, stamp, index, len(frame)) for frame, stamp, index in frames]
