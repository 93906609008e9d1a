"""Engines of host ports on socket pairs and a ring in plain memory: no privilege needed."""

import errno
import os
import socket
import struct

import pytest
from unit.ports.rig import BLOCK_BYTES, NO_OFFLOAD, Rig, Ring, pair, vnet

from netstack._fast.hostport import PacketRx, PacketTx, TapRx, TapTx

FRAME = bytes.fromhex("020000000099020000000001") + b"\x08\x00" + bytes(46)
GROUP = b"\xff" * 6 + FRAME[6:]


@pytest.fixture
def ends():
    here, there = pair()
    with here, there:
        yield here, there


def sized(n, first=2):
    """A frame of n bytes that differ."""
    return bytes([first]) + bytes((i * 7 + i // 251) & 0xFF for i in range(1, n))


def ring_rig(offload=True, **rig):
    ring, rig, control = Ring(), Rig(**rig), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    engine = PacketRx(control.fileno(), ring.memory, BLOCK_BYTES, offload)
    return ring, rig, rig.interface(rx=engine), engine, control


# --- TAP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_vnet", [True, False])
def test_tap_moves_frames_of_all_sizes(ends, has_vnet):
    here, there = ends
    rig = Rig()
    engines = TapRx(here.fileno(), has_vnet), TapTx(here.fileno(), has_vnet)
    ifp = rig.interface(*engines)
    head = NO_OFFLOAD if has_vnet else b""
    frames = [sized(n) for n in (14, 60, 1514, 2062, 2063, 4124, 4125, 9018, 65550)]
    for frame in frames:
        there.send(head + frame)
        assert rig.frames(ifp) == [frame]
        rig.tx(ifp, frame)
        assert there.recv(1 << 17) == head + frame
    counters = ifp.counters()
    assert counters["ipackets"] == counters["opackets"] == len(frames)
    assert counters["ibytes"] == counters["obytes"] == sum(map(len, frames))
    assert rig.is_whole and not ifp.drops()


def test_tap_keeps_order_and_limit(ends):
    here, there = ends
    rig = Rig()
    ifp = rig.interface(TapRx(here.fileno(), False))
    frames = [sized(60, 2 * i) for i in range(20)]
    for frame in frames:
        there.send(frame)
    assert rig.frames(ifp, 7) == frames[:7]
    assert rig.frames(ifp, 256) == frames[7:]
    assert rig.frames(ifp) == []


def test_tap_without_mbufs_counts_and_goes_on(ends):
    here, there = ends
    rig = Rig(nmbufs=4)
    ifp = rig.interface(TapRx(here.fileno()))
    for n in (60, 60, 4125, 60, 60, 60):  # the third needs three of the two left
        there.send(NO_OFFLOAD + sized(n))
    mv = rig.rx(ifp)
    assert mv.lengths() == [60, 60, 60, 60]
    mv.clear()
    counters, drops = ifp.counters(), ifp.drops()
    assert drops == {"no_mbuf": 2}
    assert counters["ipackets"] == 6 and counters["ibytes"] == 5 * 60 + 4125
    assert rig.is_whole


def test_offload_state_crosses_from_port_to_port(ends):
    here, there = ends
    rig = Rig()
    left, right = pair()
    with left, right:
        source = rig.interface(rx=TapRx(here.fileno()))
        target = rig.interface(tx=TapTx(left.fileno()))
        head = vnet(1, 1, 54, 1448, 34, 16)
        there.send(head + sized(9000))
        rig.forward(source, target)
        assert right.recv(1 << 17) == head + sized(9000)
        # what only the receiver's kernel may know (DATA_VALID) is not passed on
        there.send(vnet(2, 0, 77, 88, 34, 16) + FRAME)
        rig.forward(source, target)
        assert right.recv(1 << 17) == NO_OFFLOAD + FRAME
    assert rig.is_whole


# --- errors of the host --------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [PacketTx, TapTx])
def test_peer_without_room_is_asked_again_then_dropped(ends, engine):
    here, there = ends
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rig = Rig()
    tx = engine(here.fileno())
    ifp = rig.interface(tx=tx)
    rig.tx(ifp, *[FRAME] * 200)
    counters, drops = ifp.counters(), ifp.drops()
    received = 0
    there.setblocking(False)
    while True:
        try:
            received += len(there.recv(100)) == 70
        except BlockingIOError:
            break
    assert 0 < received < 200 and counters["opackets"] == received
    assert drops == {"tx_error": 200 - received}
    assert tx.retries == 4 * 16 - 16 * (received // 64) and tx.error == 0
    assert rig.is_whole


@pytest.mark.parametrize("engine", [PacketTx, TapTx])
def test_frame_too_long_for_the_host_is_dropped_alone(ends, engine):
    here, there = ends
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    rig = Rig()
    ifp = rig.interface(tx=engine(here.fileno()))
    rig.tx(ifp, FRAME, sized(60_000), GROUP)
    assert [there.recv(1 << 17)[10:] for _ in range(2)] == [FRAME, GROUP]
    assert ifp.drops() == {"tx_error": 1}
    counters = ifp.counters()
    assert (counters["opackets"], counters["obytes"], counters["omcasts"]) == (2, 120, 1)
    assert rig.is_whole


@pytest.mark.parametrize("engine", [PacketTx, TapTx])
def test_port_that_is_gone_takes_itself_down(ends, engine):
    here, there = ends
    rig = Rig()
    tx = engine(here.fileno())
    ifp = rig.interface(tx=tx)
    there.close()
    rig.tx(ifp, FRAME, FRAME, FRAME)
    assert tx.error == errno.EPIPE
    calls = tx.calls
    rig.tx(ifp, FRAME)
    assert tx.calls == calls, "a port that is down makes no system call"
    assert ifp.drops() == {"if_down": 4} and ifp.counters()["opackets"] == 0
    tx.clear_error()
    assert tx.error == 0
    rig.tx(ifp, FRAME)
    assert tx.error == errno.EPIPE and tx.calls > calls
    tx.close()
    rig.tx(ifp, FRAME)
    assert ifp.drops() == {"if_down": 6}
    assert rig.is_whole


def test_chain_with_more_pieces_than_a_call_takes(ends):
    here, there = ends
    rig = Rig(nmbufs=700)
    ifp = rig.interface(tx=PacketTx(here.fileno()))
    rig.tx(ifp, FRAME, sized(2062 * 300), FRAME, sized(2062 * 301))
    assert [len(there.recv(1 << 17)) for _ in range(2)] == [70, 70]
    assert ifp.drops() == {"tx_error": 2}
    assert rig.is_whole


def test_read_error_is_kept():
    rig = Rig()
    read_end, write_end = os.pipe()
    rx = TapRx(write_end)  # not open for reading
    ifp = rig.interface(rx=rx)
    assert rig.frames(ifp) == [] and rx.error == errno.EBADF
    rx.clear_error()
    assert rx.error == 0 and rx.missed == 0
    rx.close()
    assert rig.frames(ifp) == [] and rx.error == 0 and rx.fd == -1
    os.close(read_end)
    os.close(write_end)
    assert rig.is_whole


# --- the packet ring -----------------------------------------------------------------------------


def test_ring_gives_frames_in_order_and_blocks_back():
    ring, rig, ifp, engine, control = ring_rig()
    with control:
        frames = [sized(60 + i, 2 * i) for i in range(10)]
        ring.fill([(NO_OFFLOAD, frame) for frame in frames[:6]])
        ring.fill([(NO_OFFLOAD, frame) for frame in frames[6:]])
        assert rig.frames(ifp, 4) == frames[:4]
        assert ring.status(0) == 1, "a block is kept until its last frame is copied"
        assert rig.frames(ifp, 4) == frames[4:8]
        assert (ring.status(0), ring.status(1)) == (0, 1)
        assert rig.frames(ifp) == frames[8:] and ring.status(1) == 0
        for lap in range(9):  # around the ring
            ring.fill([(NO_OFFLOAD, frames[lap])])
            assert rig.frames(ifp) == [frames[lap]]
        ring.fill([])
        ring.fill([(NO_OFFLOAD, FRAME)])
        assert rig.frames(ifp) == [FRAME], "an empty block is passed over"
        engine.close()
        assert rig.frames(ifp) == [] and engine.missed == 0
    assert rig.is_whole


def test_ring_puts_the_vlan_tag_back():
    ring, rig, ifp, _, control = ring_rig()
    with control:
        ring.fill(
            [
                (NO_OFFLOAD, FRAME, {"tci": 0x2064, "tpid": 0x88A8}),
                (NO_OFFLOAD, FRAME, {"tci": 5}),
                (NO_OFFLOAD, sized(2062), {"tci": 5, "tpid": 0x8100}),
            ]
        )
        assert rig.frames(ifp) == [
            FRAME[:12] + b"\x88\xa8\x20\x64" + FRAME[12:],
            FRAME[:12] + b"\x81\x00\x00\x05" + FRAME[12:],
            sized(2062)[:12] + b"\x81\x00\x00\x05" + sized(2062)[12:],
        ]
        assert ifp.counters()["ibytes"] == 2 * 64 + 2066
    assert rig.is_whole


def test_ring_tag_moves_the_offload_offsets(ends):
    here, there = ends
    ring, rig, ifp, _, control = ring_rig()
    with control:
        target = rig.interface(tx=PacketTx(here.fileno()))
        ring.fill([(vnet(1, 1, 54, 1448, 34, 16), sized(3000), {"tci": 7})])
        rig.forward(ifp, target)
        assert there.recv(1 << 17)[:10] == vnet(1, 1, 58, 1448, 38, 16)
    assert rig.is_whole


def test_ring_passes_over_what_the_host_sent_and_counts_what_it_cut():
    ring, rig, ifp, _, control = ring_rig()
    with control:
        own = {"type": 4}
        ring.fill([(NO_OFFLOAD, FRAME, own), (NO_OFFLOAD, FRAME, {"length": 300_000})])
        assert rig.frames(ifp) == []
        assert ifp.drops() == {"giant": 1}
        assert ifp.counters()["ipackets"] == 1 and ifp.counters()["ibytes"] == 300_000


def test_ring_without_mbufs_counts_each_frame():
    ring, rig, ifp, _, control = ring_rig(nmbufs=3)
    with control:
        ring.fill([(NO_OFFLOAD, FRAME)] * 8)
        mv = rig.rx(ifp)
        assert len(mv) == 3 and ring.status(0) == 0
        assert ifp.drops() == {"no_mbuf": 5} and ifp.counters()["ipackets"] == 8
        mv.clear()
    assert rig.is_whole


def test_ring_memory_must_be_whole_blocks():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for nbytes, block in ((1000, 999), (0, 4096), (4096, 0), (4096, -1)):
            with pytest.raises(ValueError):
                PacketRx(control.fileno(), bytearray(nbytes), block)


def test_ring_is_let_go_on_close():
    ring, _, _, engine, control = ring_rig()
    with control, pytest.raises(BufferError):
        ring.memory.clear()
    engine.close()
    engine.close()
    ring.memory.clear()


def test_ring_asks_the_socket_for_its_error():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as refused:
        refused.setblocking(False)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        refused.connect_ex(("127.0.0.1", port))
        engine = PacketRx(refused.fileno(), Ring().memory, BLOCK_BYTES)
        rig = Rig()
        ifp = rig.interface(rx=engine)
        assert rig.frames(ifp) == []
        assert engine.error == errno.ECONNREFUSED
        engine.clear_error()
        assert rig.frames(ifp) == [] and engine.error == 0


def test_group_frames_are_marked(ends):
    here, there = ends
    ring, rig, ifp, _, control = ring_rig()
    with control:
        target = rig.interface(tx=PacketTx(here.fileno()))
        ring.fill([(NO_OFFLOAD, GROUP), (NO_OFFLOAD, FRAME)])
        rig.forward(ifp, target)
        assert target.counters()["omcasts"] == 1
        assert struct.unpack("6B", there.recv(100)[10:16]) == (255,) * 6
