"""The virtio network device at the level of its registers and rings (VIRTIO 1.2, 4.1 and 5.1)."""

import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netstack._fast.intr import IntrController
from netstack.dev.virtqueue import VirtQueue
from netstack.hw.pci_regs import CAP_MSIX
from netstack.hw.vioif import OFFERED, VioifModel
from netstack.hw.vioif_regs import (
    CAP_VENDOR,
    COMMON,
    HEADER_BYTES,
    ISR_CONFIG,
    NO_VECTOR,
    STRUCTURES,
    VIRTIO_BYTES,
    VIRTIO_NET_F,
    VirtioStatus,
)
from netstack.hw.virtq_regs import SharedMemory

MAC = b"\x02\0\0\0\0\1"
READY = VirtioStatus.ACKNOWLEDGE | VirtioStatus.DRIVER
FEATURES_OK = READY | VirtioStatus.FEATURES_OK
FRAME = bytes(range(60))
COMMON_AT, NOTIFY_AT, ISR_AT, DEVICE_AT = (STRUCTURES[kind][0] for kind in (1, 2, 3, 4))


class Bench:
    """A device with its registers poked directly; ``start`` does what a driver does."""

    def __init__(self, pairs: int = 2, features: VIRTIO_NET_F = OFFERED) -> None:
        self.controller = IntrController(1)
        self.memory = SharedMemory(1 << 18)
        self.hw = VioifModel("vioif0", self.controller, self.memory, MAC, pairs, 100, features)
        self.region = self.hw.function.regions[4]
        self.queues: dict[int, VirtQueue] = {}

    def read(self, field: str) -> int:
        at, nbytes = COMMON[field]
        return self.region.read(COMMON_AT + (at & ~3)) >> 8 * (at & 3) & (1 << 8 * nbytes) - 1

    def write(self, field: str, value: int) -> None:
        at, nbytes = COMMON[field]
        shift = 8 * (at & 3)
        word = self.region.read(COMMON_AT + (at & ~3)) & ~((1 << 8 * nbytes) - 1 << shift)
        self.region.write(COMMON_AT + (at & ~3), word & 0xFFFFFFFF | value << shift)

    def negotiate(self, features: int = int(VIRTIO_NET_F.VERSION_1 | VIRTIO_NET_F.CTRL_VQ | VIRTIO_NET_F.MQ)) -> None:
        self.write("device_status", READY)
        for select in (0, 1):
            self.write("driver_feature_select", select)
            self.write("driver_feature", features >> 32 * select & 0xFFFFFFFF)
        self.write("device_status", FEATURES_OK)

    def enable(self, index: int, size: int = 16) -> VirtQueue:
        vq = self.queues[index] = VirtQueue(self.memory, f"q{index}", size)
        self.write("queue_select", index)
        self.write("queue_size", size)
        for area in ("desc", "driver", "device"):
            address = getattr(vq.layout, area)
            self.write(f"queue_{area}_lo", address & 0xFFFFFFFF)
            self.write(f"queue_{area}_hi", address >> 32)
        self.write("queue_enable", 1)
        return vq

    def start(self, *queues: int) -> None:
        self.negotiate()
        for index in queues:
            self.enable(index)
        self.write("device_status", FEATURES_OK | VirtioStatus.DRIVER_OK)

    def notify(self, index: int) -> None:
        self.region.write(NOTIFY_AT + 4 * index, index)

    def command(self, *parts: bytes) -> int:
        """Send a command on the control queue; return the answer."""
        data = b"".join(parts)
        address = self.memory.alloc(64)
        self.memory.write(address, data)
        self.queues[4].add([(address, len(data))], [(address + 32, 1)])
        self.queues[4].publish()
        self.notify(4)
        assert self.queues[4].take() is not None
        return self.memory.read(address + 32, 1)[0]


def test_the_capability_list_says_where_everything_is() -> None:
    function = Bench().hw.function
    at, found = function.config_read(0x34), []
    while at:
        word = function.config_read(at)
        words = [function.config_read(at + 4 * i) for i in (1, 2, 3)]
        if word & 0xFF == CAP_VENDOR:
            found.append((word >> 24, word >> 16 & 0xFF, *words))
        else:
            assert word & 0xFF == CAP_MSIX
            assert (word >> 16 & 0x7FF) + 1 == 5  # two pairs and configuration
        at = word >> 8 & 0xFF
    assert found == [(1, 16, 4, 0, 0x38), (2, 20, 4, 0x3000, 0x1000), (3, 16, 4, 0x1000, 4), (4, 16, 4, 0x2000, 12)]
    assert function.config_read(0) == 0x1041_1AF4


def test_fields_after_reset() -> None:
    b = Bench()
    assert b.read("num_queues") == 5
    assert (b.read("device_status"), b.read("queue_size"), b.read("queue_enable")) == (0, 256, 0)
    assert (b.read("config_msix_vector"), b.read("queue_msix_vector")) == (NO_VECTOR, NO_VECTOR)
    for index in range(5):
        b.write("queue_select", index)
        assert b.read("queue_notify_off") == index
    b.write("queue_select", 5)
    assert b.read("queue_size") == 0  # there is none
    config = b"".join(b.region.read(DEVICE_AT + at).to_bytes(4, "little") for at in (0, 4, 8))
    assert config == MAC + struct.pack("<HHH", 1, 2, 0)


def test_features_come_in_words_and_there_are_two() -> None:
    b = Bench()
    words = []
    for select in (0, 1, 2, 0xFFFFFFFF):
        b.write("device_feature_select", select)
        words.append(b.read("device_feature"))
    assert words == [int(OFFERED) & 0xFFFFFFFF, 1, 0, 0]


def test_features_that_were_not_offered_are_refused() -> None:
    for features in (0, 1 << 32 | 1, 1 << 33 | 1 << 32):
        b = Bench()
        b.negotiate(features)
        assert b.read("device_status") == READY
    b = Bench()
    b.negotiate()
    assert b.read("device_status") == FEATURES_OK
    b.write("driver_feature", 0)  # too late
    assert b.hw.driver_features & VIRTIO_NET_F.VERSION_1


def test_only_a_reset_takes_status_bits_back() -> None:
    b = Bench()
    b.start(0)
    running = FEATURES_OK | VirtioStatus.DRIVER_OK
    for value in (VirtioStatus.NEEDS_RESET, 1, VirtioStatus.FAILED):
        b.write("device_status", value)
        assert b.read("device_status") & ~VirtioStatus.FAILED == running
    b.write("device_status", 0)
    assert (b.read("device_status"), b.read("queue_enable")) == (0, 0)


def test_a_vector_that_is_not_there_reads_back_as_none() -> None:
    b = Bench()
    for field in ("config_msix_vector", "queue_msix_vector"):
        b.write(field, 4)
        assert b.read(field) == 4
        b.write(field, 5)
        assert b.read(field) == NO_VECTOR


def test_a_neighbour_that_is_written_back_changes_nothing() -> None:
    b = Bench()
    b.negotiate()
    b.write("queue_select", 3)
    assert (b.read("device_status"), b.read("queue_select")) == (FEATURES_OK, 3)
    b.write("queue_size", 64)
    b.write("queue_msix_vector", 2)
    assert (b.read("queue_size"), b.read("queue_msix_vector")) == (64, 2)


def test_a_ring_that_cannot_be_needs_a_reset() -> None:
    for field, value in (("queue_desc_lo", 8), ("queue_size", 24), ("queue_driver_hi", 0xFFFFFFFF)):
        b = Bench()
        b.negotiate()
        vq = VirtQueue(b.memory, "q", 16)
        words = {"queue_size": 16}
        for area in ("desc", "driver", "device"):
            words[f"queue_{area}_lo"] = getattr(vq.layout, area) & 0xFFFFFFFF
            words[f"queue_{area}_hi"] = getattr(vq.layout, area) >> 32
        words[field] = value
        for name, word in words.items():
            b.write(name, word)
        b.write("queue_enable", 1)
        assert b.read("device_status") & VirtioStatus.NEEDS_RESET
        assert b.hw.fault.startswith("vioif0 RX0: ")
        assert b.hw.faults == 1
        b.write("device_status", 0)
        assert (b.read("device_status"), b.hw.fault) == (0, "")


def test_a_frame_goes_into_a_buffer_behind_its_header() -> None:
    b = Bench()
    b.start(0)
    address = b.memory.alloc(200)
    b.queues[0].add([], [(address, HEADER_BYTES), (address + 64, 100)])
    b.queues[0].publish()
    assert b.hw.arrive([FRAME, FRAME]) == 2
    assert b.queues[0].take() == (0, HEADER_BYTES + 60)
    assert b.memory.read(address, HEADER_BYTES) == bytes(10) + b"\1\0"
    assert b.memory.read(address + 64, 60) == FRAME
    assert b.hw.rx_engines[0].resting == 1  # the second waits for a buffer


def test_a_frame_longer_than_the_buffer_leaves_the_buffer_to_the_next() -> None:
    b = Bench()
    b.start(0)
    address = b.memory.alloc(200)
    b.queues[0].add([], [(address, HEADER_BYTES + 100)])
    b.queues[0].publish()
    b.hw.arrive([bytes(101), FRAME])
    assert b.hw.rx_engines[0].oversize == 1
    assert b.memory.read(address + HEADER_BYTES, 60) == FRAME


def test_what_comes_before_the_driver_is_ready_is_turned_away() -> None:
    b = Bench()
    b.negotiate()
    assert b.hw.arrive([FRAME]) == 1
    assert b.hw.turned_away == 1


def transmit(b: Bench, data: bytes) -> None:
    address = b.memory.alloc(max(len(data), 1))
    b.memory.write(address, data)
    b.queues[1].add([(address, len(data))])
    b.queues[1].publish()
    b.notify(1)


def test_a_transmit_chain_is_a_frame_behind_its_header() -> None:
    b = Bench()
    b.start(1)
    transmit(b, bytes(HEADER_BYTES) + FRAME)
    assert b.hw.wire.recv() == [FRAME]
    assert b.queues[1].take() == (0, 0)


def test_a_bad_transmit_chain_stops_the_device_by_name() -> None:
    for data, words in (
        (bytes(HEADER_BYTES - 1), "without header"),
        (b"\1" + bytes(80), "not negotiated"),
        (b"\0\1" + bytes(80), "not negotiated"),
        (bytes(65551), "more than 65550"),
    ):
        b = Bench()
        b.start(0, 1)
        transmit(b, data)
        assert b.read("device_status") & VirtioStatus.NEEDS_RESET
        assert words in b.hw.fault
        assert b.region.read(ISR_AT) == ISR_CONFIG
        assert b.region.read(ISR_AT) == 0  # reading took it back
        assert b.hw.arrive([FRAME]) == 1  # stopped means both directions
        assert b.hw.turned_away == 1
        assert b.hw.wire.recv() == []


def test_the_control_queue_sets_pairs_and_refuses_what_it_does_not_know() -> None:
    b = Bench()
    b.start(4)
    assert b.command(b"\4\0", b"\2\0") == 0
    assert b.hw.active_pairs == 2
    for bad in (b"\4\0\0\0", b"\4\0\3\0", b"\4\1\1\0", b"\0\0\1\0", b"\4\0\1", b"\4\0\1\0\0"):
        assert b.command(bad) == 1
    assert b.hw.active_pairs == 2
    assert (b.hw.control.commands, b.hw.control.refused) == (7, 6)


def test_a_notification_for_no_queue_is_nothing() -> None:
    b = Bench()
    b.start(0)
    for index in (1, 5, 77, 0x3FF):
        b.notify(index)
    b.region.write(NOTIFY_AT, 0xFFFFFFFF)
    assert b.hw.faults == 0


WORD = st.integers(0, VIRTIO_BYTES // 4 - 1)
SPOTS = st.sampled_from([COMMON_AT + at for at in range(0, 0x38, 4)] + [NOTIFY_AT, NOTIFY_AT + 4, ISR_AT, DEVICE_AT])
VALUES = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 1, 3, 11, 15, 1 << 16, 5 << 16, 1 << 32 - 1, 0x40, 0x10000]),
)
STEPS = st.lists(st.tuples(st.one_of(SPOTS, WORD.map(lambda n: 4 * n)), st.booleans(), VALUES), max_size=60)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, is_started=st.booleans())
def test_whatever_is_written_to_registers_the_device_answers(steps: list[Any], is_started: bool) -> None:
    """No access raises, and afterwards a reset makes a device that works."""
    b = Bench()
    if is_started:
        b.start(0, 1, 4)
    for offset, is_write, value in steps:
        if is_write:
            b.region.write(offset, value)
        else:
            assert 0 <= b.region.read(offset) <= 0xFFFFFFFF
        b.hw.arrive([FRAME])
    b.region.write(COMMON_AT + 0x14, 0)
    assert b.read("device_status") == 0
    b.start(1)
    b.hw.wire.recv()
    transmit(b, bytes(HEADER_BYTES) + FRAME)
    assert b.hw.wire.recv() == [FRAME]
