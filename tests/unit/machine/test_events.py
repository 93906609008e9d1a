"""The event heap: order, cancelling, what counts as work."""

from netstack.machine.events import EventHeap


def drain(heap: EventHeap) -> list[int]:
    order: list[int] = []
    while (when_ns := heap.next_ns()) is not None:
        heap.pop()
        order.append(when_ns)
    return order


def test_calls_come_in_time_order_and_ties_in_the_order_made() -> None:
    heap = EventHeap()
    seen: list[str] = []
    for when_ns, name in ((30, "c"), (10, "a1"), (20, "b"), (10, "a2")):
        heap.add(when_ns, lambda name=name: seen.append(name))
    while heap.next_ns() is not None:
        heap.pop().fn()
    assert seen == ["a1", "a2", "b", "c"]


def test_a_cancelled_call_is_not_made_and_not_counted() -> None:
    heap = EventHeap()
    first = heap.add(10, lambda: None)
    heap.add(20, lambda: None)
    assert first.cancel() and not first.cancel()
    assert len(heap) == 1 and heap.foreground == 1
    assert drain(heap) == [20]
    assert heap.foreground == 0 and len(heap) == 0


def test_a_call_that_was_made_cannot_be_cancelled() -> None:
    heap = EventHeap()
    timer = heap.add(10, lambda: None)
    assert heap.next_ns() == 10
    heap.pop()
    assert not timer.is_pending and not timer.cancel()
    assert heap.foreground == 0


def test_background_calls_are_no_work() -> None:
    heap = EventHeap()
    timer = heap.add(10, lambda: None, is_background=True)
    assert heap.foreground == 0 and len(heap) == 1
    timer.cancel()
    assert heap.foreground == 0 and heap.next_ns() is None
