"""Split virtqueues: bytes in memory, both sides of the contract, and what neither side may do (VIRTIO 1.2, 2.7)."""

import struct
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack import NetstackError
from netstack.dev.virtqueue import INDIRECT_ENTRIES, VirtQueue
from netstack.hw.virtq_regs import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    SharedMemory,
    VirtqFault,
    VringLayout,
    need_event,
)
from netstack.hw.virtqueue import DeviceQueue

BASE = 0x1_0000_0000
DESC, DRIVER, DEVICE, TABLE, DATA = BASE, BASE + 0x1000, BASE + 0x2000, BASE + 0x3000, BASE + 0x8000
MEMORY_BYTES = 0x10000
SIZE = 8


class Ring:
    """A device queue over memory that the test writes as a (bad) driver would."""

    def __init__(self, size: int = SIZE, **features: Any) -> None:
        self.memory = SharedMemory(MEMORY_BYTES)
        self.features = {"may_indirect": True, "has_event_idx": False, **features}
        self.queue = DeviceQueue(VringLayout(self.memory, "q", size, DESC, DRIVER, DEVICE), **self.features)
        self.size = size
        self.offered = 0

    def desc(
        self, index: int, address: int, length: int, flags: int = 0, after: int = 0, table: int = DESC
    ) -> None:
        self.memory.write(table + 16 * index, struct.pack("<QIHH", address, length, flags, after))

    def offer(self, head: int) -> None:
        self.memory.write(DRIVER + 4 + 2 * (self.offered % self.size), struct.pack("<H", head))
        self.offered += 1
        self.index(self.offered)

    def index(self, value: int) -> None:
        self.memory.write(DRIVER + 2, struct.pack("<H", value & 0xFFFF))


def pair(size: int = SIZE, start: int = 0, **features: bool) -> tuple[VirtQueue, DeviceQueue]:
    """Return both sides of one queue, their indices at ``start``."""
    memory = SharedMemory(MEMORY_BYTES * 4)
    driver = VirtQueue(memory, "q", size, **features)
    driver._added = driver._published = driver._taken = start  # as if it had run that long
    memory.u16[driver.layout.avail_idx] = memory.u16[driver.layout.used_idx] = start
    has_event_idx = features.get("event_idx", False)
    device = DeviceQueue(driver.layout, may_indirect=True, has_event_idx=has_event_idx, start=start)
    return driver, device


# Bytes.


def test_the_driver_writes_the_layout_of_the_specification() -> None:
    driver, _ = pair()
    memory, layout = driver.memory, driver.layout
    head = driver.add([(DATA, 12)], [(DATA + 64, 100), (DATA + 256, 7)])
    assert head == 0
    assert memory.read(layout.desc, 48) == (
        struct.pack("<QIHH", DATA, 12, DESC_NEXT, 1)
        + struct.pack("<QIHH", DATA + 64, 100, DESC_NEXT | DESC_WRITE, 2)
        + struct.pack("<QIHH", DATA + 256, 7, DESC_WRITE, 0)
    )
    assert memory.read(layout.driver, 6) == struct.pack("<HHH", 0, 0, 0)  # not published
    assert driver.publish()
    assert memory.read(layout.driver, 6) == struct.pack("<HHH", 0, 1, 0)


def test_the_device_writes_the_used_ring_of_the_specification() -> None:
    ring = Ring()
    ring.desc(5, DATA, 100, DESC_WRITE)
    ring.offer(5)
    chain = ring.queue.pop()
    assert chain is not None
    ring.queue.push(chain.head, ring.queue.scatter(chain, b"x" * 33))
    assert ring.memory.read(DEVICE, 12) == struct.pack("<HHII", 0, 1, 5, 33)
    assert ring.memory.read(DATA, 34) == b"x" * 33 + b"\0"


def test_an_indirect_table_takes_one_descriptor_of_the_ring() -> None:
    driver, device = pair(indirect=True)
    parts = [(DATA + 100 * i, 10 + i) for i in range(INDIRECT_ENTRIES)]
    for _ in range(SIZE):
        assert driver.add(parts) is not None
    assert driver.add(parts) is None
    address, length, flags, _ = struct.unpack("<QIHH", driver.memory.read(driver.layout.desc, 16))
    assert (length, flags) == (16 * INDIRECT_ENTRIES, DESC_INDIRECT)
    table = struct.unpack("<QIHH", driver.memory.read(address, 16))
    assert table == (DATA, 10, DESC_NEXT, 1)
    driver.publish()
    chain = device.pop()
    assert chain is not None
    assert chain.readable == parts
    assert chain.writable == []


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(VirtqFault, match="powers of two"):
        VringLayout(SharedMemory(MEMORY_BYTES), "q", size, DESC, DRIVER, DEVICE)


@pytest.mark.parametrize(
    ("desc", "driver", "device"),
    [
        (DESC + 8, DRIVER, DEVICE),
        (DESC, DRIVER + 1, DEVICE),
        (DESC, DRIVER, DEVICE + 2),
        (0, DRIVER, DEVICE),
        (DESC, BASE + MEMORY_BYTES - 4, DEVICE),
        (DESC, DRIVER, BASE + MEMORY_BYTES),
        (DESC, DRIVER, BASE - 4),
    ],
)
def test_an_area_that_is_not_aligned_or_not_mapped_is_refused(desc: int, driver: int, device: int) -> None:
    with pytest.raises(VirtqFault, match="not aligned to"):
        VringLayout(SharedMemory(MEMORY_BYTES), "q", SIZE, desc, driver, device)


# Both sides together.


FEATURES = [{}, {"indirect": True}, {"event_idx": True}, {"indirect": True, "event_idx": True}]


@pytest.mark.parametrize("features", FEATURES)
def test_frames_cross_in_order_through_the_wrap_of_the_indices(features: dict[str, bool], seed: int) -> None:
    driver, device = pair(start=0xFFF0, **features)
    memory, random = driver.memory, Random(seed)
    buffers = [memory.alloc(64) for _ in range(SIZE)]
    heads: dict[int, int] = {}
    serial = taken = 0
    while taken < 200:
        for _ in range(random.randint(0, SIZE)):
            if not buffers:
                break
            address = buffers.pop()
            head = driver.add([(address, 8)], [(address + 8, 56)])
            if head is None:
                buffers.append(address)
                break
            memory.write(address, struct.pack("<Q", serial))
            heads[head] = address
            serial += 1
        driver.publish()
        for _ in range(random.randint(0, SIZE)):
            chain = device.pop()
            if chain is None:
                break
            device.push(chain.head, device.scatter(chain, device.gather(chain) * 2))
        while (found := driver.take()) is not None:
            address = heads.pop(found[0])
            assert found[1] == 16
            assert memory.read(address + 8, 16) == struct.pack("<QQ", taken, taken), f"seed {seed}"
            buffers.append(address)
            taken += 1
    assert driver.outstanding == len(heads)


@pytest.mark.parametrize("start", [0, 0xFFFC])
def test_with_event_index_a_notification_comes_when_its_index_is_passed(start: int) -> None:
    driver, device = pair(start=start, event_idx=True)
    assert not device.start_notify()
    driver.add([(DATA, 1)])
    assert driver.publish()
    driver.add([(DATA, 1)])
    assert not driver.publish()  # not asked for since
    assert device.start_notify()  # two chains came meanwhile
    while device.pop() is not None:
        pass
    assert not device.start_notify()
    driver.add([(DATA, 1)])
    driver.add([(DATA, 1)])
    assert driver.publish()


@pytest.mark.parametrize("start", [0, 0xFFFC])
@pytest.mark.parametrize("event_idx", [False, True])
def test_interrupts_stop_start_and_wait_for_three_quarters(event_idx: bool, start: int) -> None:
    driver, device = pair(start=start, event_idx=event_idx)
    for _ in range(SIZE):
        driver.add([(DATA, 1)])
    driver.publish()

    def complete() -> bool:
        chain = device.pop()
        assert chain is not None
        device.push(chain.head, 0)
        return device.wants_interrupt()

    driver.stop_intr()
    assert not complete()
    assert driver.start_intr()  # one is there: no interrupt will come for it
    while driver.take() is not None:
        pass
    assert not driver.start_intr()
    assert complete()
    while driver.take() is not None:
        pass
    assert not driver.postpone_intr()  # six are out
    interrupts = [complete() for _ in range(6)]
    assert interrupts == ([False] * 3 + [True] + [False] * 2 if event_idx else [True] * 6)


def test_need_event_is_the_rule_of_the_specification() -> None:
    for new, old in ((5, 0), (2, 0xFFFE), (0, 0xFFFF)):
        passed = {(old + i) & 0xFFFF for i in range((new - old) & 0xFFFF)}
        assert {event for event in range(0x10000) if need_event(event, new, old)} == passed


# A driver that breaks rules: (what it writes, the words of the fault).

M = DESC_NEXT


def loop(ring: Ring) -> None:
    ring.desc(0, DATA, 1, M, 1)
    ring.desc(1, DATA, 1, M, 0)


def own_loop(ring: Ring) -> None:
    ring.desc(0, DATA, 1, M, 0)


def inner_loop(ring: Ring) -> None:
    ring.desc(0, TABLE, 32, DESC_INDIRECT)
    ring.desc(0, DATA, 1, M, 1, table=TABLE)
    ring.desc(1, DATA, 1, M, 0, table=TABLE)


def nested(ring: Ring) -> None:
    ring.desc(0, TABLE, 16, DESC_INDIRECT)
    ring.desc(0, TABLE + 64, 16, DESC_INDIRECT, table=TABLE)


def inner_next(ring: Ring) -> None:
    ring.desc(0, TABLE, 32, DESC_INDIRECT)
    ring.desc(0, DATA, 1, M, 2, table=TABLE)


def long_table(ring: Ring) -> None:
    ring.desc(0, TABLE, 16 * (SIZE + 1), DESC_INDIRECT)
    for i in range(SIZE + 1):
        ring.desc(i, DATA, 1, M if i < SIZE else 0, i + 1, table=TABLE)


def wrong_order(ring: Ring) -> None:
    ring.desc(0, DATA, 1, M | DESC_WRITE, 1)
    ring.desc(1, DATA, 1)


BAD = {
    "loop": (loop, "loop"),
    "loop of one": (own_loop, "loop"),
    "loop in a table": (inner_loop, "loop"),
    "longer than the queue": (long_table, "more than 8 descriptors"),
    "next beyond the ring": (lambda r: r.desc(0, DATA, 1, M, SIZE), "next is 8, of 8"),
    "next beyond a table": (inner_next, "next is 2, of 2"),
    "table in a table": (nested, "inside another"),
    "table of odd size": (lambda r: r.desc(0, TABLE, 24, DESC_INDIRECT), "table of 24 bytes"),
    "empty table": (lambda r: r.desc(0, TABLE, 0, DESC_INDIRECT), "table of 0 bytes"),
    "table not mapped": (lambda r: r.desc(0, BASE + MEMORY_BYTES, 16, DESC_INDIRECT), "not mapped"),
    "table not aligned": (lambda r: r.desc(0, TABLE + 4, 16, DESC_INDIRECT), "not aligned"),
    "table with next": (lambda r: r.desc(0, TABLE, 16, DESC_INDIRECT | M, 1), "with a next"),
    "table to write": (lambda r: r.desc(0, TABLE, 16, DESC_INDIRECT | DESC_WRITE), "may write"),
    "memory below": (lambda r: r.desc(0, BASE - 1, 2), "not mapped"),
    "memory above": (lambda r: r.desc(0, BASE + MEMORY_BYTES - 1, 2), "not mapped"),
    "memory that wraps": (lambda r: r.desc(0, 2**64 - 1, 2**32 - 1), "not mapped"),
    "longer than memory": (lambda r: r.desc(0, BASE, 2**32 - 1), "not mapped"),
    "readable after writable": (wrong_order, "readable after writable"),
}


@pytest.mark.parametrize(("write", "words"), BAD.values(), ids=BAD)
def test_a_chain_that_breaks_a_rule_is_refused_whole(write: Any, words: str) -> None:
    ring = Ring()
    write(ring)
    ring.offer(0)
    before = bytes(ring.memory.u8)
    for _ in range(2):  # it is not taken, so it is found again
        with pytest.raises(VirtqFault, match=words):
            ring.queue.pop()
    assert bytes(ring.memory.u8) == before


def test_a_table_that_was_not_negotiated_is_refused() -> None:
    ring = Ring(may_indirect=False)
    ring.desc(0, TABLE, 16, DESC_INDIRECT)
    ring.offer(0)
    with pytest.raises(VirtqFault, match="not negotiated"):
        ring.queue.pop()


@pytest.mark.parametrize("head", [SIZE, 0xFFFF])
def test_a_head_beyond_the_ring_is_refused(head: int) -> None:
    ring = Ring()
    ring.offer(head)
    with pytest.raises(VirtqFault, match=f"descriptor {head}"):
        ring.queue.pop()


@pytest.mark.parametrize("index", [SIZE + 1, 0x8000, 0xFFFF])
def test_an_index_too_far_ahead_is_refused(index: int) -> None:
    ring = Ring()
    ring.index(index)
    with pytest.raises(VirtqFault, match=f"{index} ahead"):
        ring.queue.pop()


def test_a_chain_as_long_as_the_queue_is_fine() -> None:
    ring = Ring()
    for i in range(SIZE):
        ring.desc(i, DATA + i, 1, M if i < SIZE - 1 else 0, i + 1)
    ring.memory.write(DATA, bytes(range(SIZE)))
    ring.offer(0)
    chain = ring.queue.pop()
    assert chain is not None
    assert ring.queue.gather(chain) == bytes(range(SIZE))


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(min_size=0x100, max_size=0x400),
    heads=st.lists(st.integers(0, SIZE + 1), min_size=1, max_size=SIZE),
    features=st.tuples(st.booleans(), st.booleans()),
)
def test_whatever_memory_holds_the_device_stays_inside(
    content: bytes, heads: list[int], features: tuple[bool, bool]
) -> None:
    """A chain that is handed out lies in memory and is finite; else there is a fault, and nothing is written."""
    ring = Ring(may_indirect=features[0], has_event_idx=features[1])
    for at in range(0, 16 * SIZE, 16):  # addresses that are often near the truth
        address, length, flags, after = struct.unpack("<QIHH", (content * 2)[at : at + 16])
        near = address if address % 7 == 0 else BASE + address % (MEMORY_BYTES + 64)
        ring.desc(at // 16, near, length % 4096, flags % 9, after % (SIZE + 2))
    ring.memory.write(TABLE, content)
    for head in heads:
        ring.offer(head)
    try:
        while (chain := ring.queue.pop()) is not None:
            assert len(chain.readable) + len(chain.writable) <= SIZE
            for address, length in (*chain.readable, *chain.writable):
                assert BASE <= address
                assert address + length <= BASE + MEMORY_BYTES
            ring.queue.push(chain.head, ring.queue.scatter(chain, ring.queue.gather(chain)))
    except VirtqFault as fault:
        assert str(fault).startswith("q: ")
    assert len(ring.memory.u8) == MEMORY_BYTES


# A device that lies.


def used(driver: VirtQueue, index: int, head: int, written: int, at: int = 0) -> None:
    """Write a used entry and the index, as a device might."""
    memory, layout = driver.memory, driver.layout
    memory.write(layout.device + 4 + 8 * at, struct.pack("<II", head, written))
    memory.write(layout.device + 2, struct.pack("<H", index))


LIES = {
    "not out": (1, 3, 0, "descriptor 3, which is not out"),
    "beyond the table": (1, 0xFFFFFFFF, 0, "descriptor 4294967295"),
    "too long": (1, 0, 101, "claims 101 bytes in a chain of 100"),
    "index ahead": (3, 0, 0, "3 ahead, 2 chains are out"),
    "index behind": (0xFFFF, 0, 0, "65535 ahead"),
}


@pytest.mark.parametrize(("index", "head", "written", "words"), LIES.values(), ids=LIES)
def test_the_driver_finds_a_lie_in_the_used_ring(index: int, head: int, written: int, words: str) -> None:
    driver, _ = pair()
    driver.add([], [(DATA, 100)])
    driver.add([], [(DATA + 100, 100)])
    driver.publish()
    used(driver, index, head, written)
    with pytest.raises(VirtqFault, match=words):
        driver.take()
    assert driver.outstanding == 2  # nothing was taken for true
    assert driver.ready <= 2
    driver.reset()
    assert (driver.outstanding, driver.take()) == (0, None)


def test_a_chain_given_back_twice_is_a_lie() -> None:
    driver, _ = pair()
    driver.add([], [(DATA, 100)])
    driver.add([], [(DATA + 100, 100)])
    driver.publish()
    used(driver, 1, 0, 5)
    assert driver.take() == (0, 5)
    used(driver, 2, 0, 5, at=1)
    with pytest.raises(VirtqFault, match="not out"):
        driver.take()


# Memory.


def test_shared_memory_ends(seed: int) -> None:
    memory = SharedMemory(MEMORY_BYTES)
    assert memory.alloc(100, 4096) == BASE
    assert memory.alloc(1, 64) == BASE + 128
    with pytest.raises(NetstackError, match="has no"):
        memory.alloc(MEMORY_BYTES)
    with pytest.raises(NetstackError, match="writable"):
        SharedMemory(bytes(4096))
    with pytest.raises(NetstackError, match="page"):
        SharedMemory(4096, base=8)
