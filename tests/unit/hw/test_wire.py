"""The far end of a cable: what is taken as a frame, and what ``send`` says when it cannot (paper §6.1)."""

from array import array
from errno import EINVAL, ENETDOWN, ENOBUFS
from typing import Any

import numpy as np
import pytest

from netstack._fast.wire import Cable
from netstack.errors import NetstackError
from netstack.hw.wire import Wire, as_frames

FRAME = bytes(range(64))


class Loop:
    """A NIC that is a cable."""

    def __init__(self, limit: int = 100) -> None:
        self.cable = Cable(limit)

    def arrive(self, frames: list[Any]) -> int:
        return sum(self.cable.put(each) for each in frames)

    def depart(self, count: int) -> list[bytes]:
        return self.cable.take(count)


class Packet:
    """What a packet library makes: an object that turns into bytes."""

    def __bytes__(self) -> bytes:
        return FRAME


def through(frames: Any) -> list[bytes]:
    """Send, and receive at the other side of a cable."""
    wire = Wire("wm0", Loop())
    count = wire.send(frames)
    got = wire.recv()
    assert len(got) == count
    return got


@pytest.mark.parametrize(
    "one",
    [
        FRAME,
        bytearray(FRAME),
        memoryview(FRAME),
        memoryview(b"x" + FRAME)[1:],
        array("B", FRAME),
        np.frombuffer(FRAME, np.uint8),
        np.frombuffer(FRAME, ">u4"),
        memoryview(bytes(b for b in FRAME for _ in range(3)))[::3],
        np.frombuffer(bytes(b for b in FRAME for _ in range(3)), np.uint8)[::3],
        np.frombuffer(FRAME, np.uint8).reshape(2, 4, 8),
    ],
)
def test_any_buffer_is_a_frame(one: Any) -> None:
    assert through(one) == [FRAME]
    assert through([one, one]) == [FRAME, FRAME]


def test_a_list_a_tuple_a_generator_of_frames() -> None:
    frames = [bytes([i]) * 60 for i in range(3)]
    assert through(frames) == through(tuple(frames)) == through(iter(frames)) == frames
    assert through([]) == []


def test_a_2_d_array_is_a_frame_a_row() -> None:
    rows = np.arange(3 * 64, dtype=np.uint8).reshape(3, 64)
    expected = [bytes(row) for row in rows]
    assert through(rows) == expected
    assert through(np.asfortranarray(rows)) == expected
    assert through(memoryview(rows)) == expected
    assert through(np.repeat(rows, 2, axis=1)[:, ::2]) == expected
    assert through(np.zeros((0, 64), np.uint8)) == []


def test_packets_of_a_library_turn_into_bytes() -> None:
    assert through([Packet(), FRAME]) == [FRAME, FRAME]


@pytest.mark.parametrize("nonsense", ["text", 5, None, ["text"], [FRAME, 5], [None], [[FRAME]]])
def test_what_is_no_buffer_is_refused_before_anything_is_sent(nonsense: Any) -> None:
    with pytest.raises(NetstackError, match="a frame is bytes or another buffer") as caught:
        as_frames(nonsense)
    assert caught.value.errno == EINVAL
    loop = Loop()
    with pytest.raises(NetstackError):
        Wire("wm0", loop).send(nonsense)
    assert len(loop.cable) == 0


def test_a_full_cable_says_how_many_it_took() -> None:
    loop = Loop(limit=3)
    with pytest.raises(NetstackError, match="wm0: the cable took 3 of 5") as caught:
        Wire("wm0", loop).send([FRAME] * 5)
    assert caught.value.errno == ENOBUFS
    assert len(loop.cable) == 3


def test_a_cut_wire() -> None:
    wire = Wire("wm0", Loop())
    assert repr(wire) == "<Wire of wm0>"
    wire.is_cut = True
    assert repr(wire) == "<Wire of wm0 (cut)>"
    with pytest.raises(NetstackError, match="wm0: the wire leads nowhere") as caught:
        wire.send(FRAME)
    assert caught.value.errno == ENETDOWN


def test_recv_takes_up_to_a_count() -> None:
    wire = Wire("wm0", Loop())
    wire.send([bytes([i]) * 60 for i in range(5)])
    assert [each[0] for each in wire.recv(2)] == [0, 1]
    assert [each[0] for each in wire.recv()] == [2, 3, 4]
    assert wire.recv() == []
