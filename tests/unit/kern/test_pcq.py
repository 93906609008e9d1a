"""Producer-consumer queue (NetBSD pcq(9); reliability list C.12)."""

import threading
from collections import deque
from errno import EINVAL
from random import Random
from time import sleep

import pytest

from netstack import NetstackError
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pcq import FramePcq
from netstack.kern.pcq import MAXITEMS_LIMIT, Pcq

STARTS = (0, 2**16 - 2, 2**31 - 3, 2**32 - 3)


def test_it_holds_what_it_was_made_for_and_no_more() -> None:
    for maxitems in (1, 2, 3, 7, 8, 100):
        queue: Pcq[int] = Pcq(maxitems)
        assert queue.maxitems == maxitems and queue.peek() is None and queue.get() is None
        assert all(queue.put(item) for item in range(maxitems))
        assert not queue.put(-1) and len(queue) == maxitems
        assert queue.peek() == 0 and queue.get() == 0
        assert queue.put(maxitems) and not queue.put(-1)
        assert [queue.get() for _ in range(maxitems + 1)] == [*range(1, maxitems + 1), None]


@pytest.mark.parametrize("maxitems", [0, -1, MAXITEMS_LIMIT + 1])
def test_nonsense_is_refused(maxitems: int) -> None:
    with pytest.raises(NetstackError) as caught:
        Pcq(maxitems)
    assert caught.value.errno == EINVAL
    with pytest.raises(ValueError, match="None is no item"):
        Pcq(1).put(None)


def test_it_holds_references_and_gives_them_back() -> None:
    class Item:
        pass

    from weakref import ref

    queue: Pcq[Item] = Pcq(4)
    items = [Item() for _ in range(4)]
    seen = [ref(item) for item in items]
    for item in items:
        queue.put(item)
    del items, item
    assert all(each() is not None for each in seen)
    assert queue.get() is seen[0]()
    assert seen[0]() is None and seen[1]() is not None
    del queue
    assert all(each() is None for each in seen)


@pytest.mark.parametrize("start", STARTS)
def test_against_a_model_where_indices_wrap(seed: int, start: int) -> None:
    rng = Random(seed + start)
    for maxitems in (1, 2, 5, 8):
        queue: Pcq[int] = Pcq(maxitems, start=start)
        model: deque[int] = deque()
        for serial in range(400):
            if rng.random() < 0.55:
                assert queue.put(serial) == (len(model) < maxitems)
                if len(model) < maxitems:
                    model.append(serial)
            else:
                assert queue.peek() == (model[0] if model else None)
                assert queue.get() == (model.popleft() if model else None)
            assert len(queue) == len(model)


@pytest.mark.parametrize("start", [0, 2**32 - 100])
def test_many_producers_on_threads(start: int) -> None:
    """Every item arrives once, those of one producer in its order."""
    queue: Pcq[tuple[int, int]] = Pcq(50, start=start)
    each = 1000

    def produce(me: int) -> None:
        for i in range(each):
            while not queue.put((me, i)):
                sleep(0)  # let the consumer have the interpreter

    threads = [threading.Thread(target=produce, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    seen: list[list[int]] = [[], [], []]
    while sum(map(len, seen)) < 3 * each:
        item = queue.get()
        if item is None:
            sleep(0)
        else:
            seen[item[0]].append(item[1])
    for thread in threads:
        thread.join()
    assert seen == [list(range(each))] * 3 and queue.get() is None


@pytest.mark.parametrize("start", STARTS)
def test_frames_keep_order_and_interfaces_apart(start: int) -> None:
    pool = MbufPool(64, 2)
    queue = FramePcq(pool, 6, start)
    mv = MbufVec(pool, 0)
    mv.rcvif = 3
    for i in range(4):
        mv.append(bytes([i]) * 60)
    assert queue.put(mv) == 4 and len(mv) == 0
    mv.rcvif = 5
    for i in range(4, 8):
        mv.append(bytes([i]) * 60)
    assert queue.put(mv) == 2 and len(queue) == 6
    assert mv.frames() == [bytes([i]) * 60 for i in (6, 7)]  # what did not fit stays, in order
    out = MbufVec(pool, 1)
    assert queue.get(out) == 4 and out.rcvif == 3
    assert [frame[0] for frame in out.frames()] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="not empty"):
        queue.get(out)
    out.clear()
    assert queue.get(out) == 2 and out.rcvif == 5 and [frame[0] for frame in out.frames()] == [4, 5]
    out.clear()
    assert queue.get(out) == 0
    assert queue.put(mv) == 2
    assert pool.free_count == 62
    del queue  # what it holds goes back
    assert pool.free_count == 64


def test_frames_of_another_pool_are_refused() -> None:
    queue = FramePcq(MbufPool(8, 1), 4)
    with pytest.raises(ValueError, match="another pool"):
        queue.put(MbufVec(MbufPool(8, 1), 0))
