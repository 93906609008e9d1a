"""Scenarios of interfaces and interrupts that change under traffic, and of transmission."""

from __future__ import annotations

from netstack.explore.frames import bridged, frame, number_of, station, trickle
from netstack.explore.library import scenario
from netstack.topology import Machine

__all__: list[str] = []

A, B = station(1), station(2)


@scenario("affinity-move")
def affinity_move() -> object:
    """An interrupt moves to another CPU under traffic: no frame is lost, none taken twice."""
    with Machine(ncpu=2) as m:
        _, (wm0, wm1) = bridged(m)
        trickle(m, [(wm0, frame(B, A, number)) for number in (1, 2, 3)])
        m.spawn(lambda: m.intrctl.affinity("wm0 RX0", cpu=1), cpu=1, name="mover")
        m.run()
        m.audit()
        out = [number_of(each) for each in wm1.wire.recv()]
        assert out == [1, 2, 3], f"frames out: {out}"
        assert m.intrctl.list()[[row.name for row in m.intrctl.list()].index("wm0 RX0")].affinity == (1,)
        stray = m.engine.intrs.stray  # type: ignore[attr-defined]
        assert stray == 0, f"{stray} interrupts found no handler"
        return [row.counts for row in m.intrctl.list() if row.name == "wm0 RX0"]


@scenario("transmit-handover", ncpu=3)
def transmit_handover() -> object:
    """Two CPUs transmit on one queue: every frame leaves, each CPU's in its order."""
    with Machine(ncpu=3) as m:
        br, (wm0, wm1, wm2) = bridged(m, 3)
        br.static(wm2, B)
        wm0.wire.send([frame(B, A, 1), frame(B, A, 2)])
        wm1.wire.send([frame(B, station(3), 11), frame(B, station(3), 12)])
        m.run()
        m.audit()
        out = [number_of(each) for each in wm2.wire.recv()]
        assert sorted(out) == [1, 2, 11, 12], f"frames out: {out}"
        for first in (1, 11):
            mine = [n for n in out if first <= n < first + 10]
            assert mine == sorted(mine), f"frames of one CPU overtook each other: {out}"
        return tuple(out)


@scenario("interface-down")
def interface_down() -> object:
    """An interface is stopped under traffic: nothing of it is delivered or sent after stop returned."""
    with Machine(ncpu=2) as m:
        _, (wm0, wm1) = bridged(m)
        trickle(m, [(wm1, frame(A, B, 1)), (wm0, frame(B, A, 2)), (wm1, frame(A, B, 3))])
        after: list[tuple[int, ...]] = []

        def counted() -> tuple[int, ...]:
            wm1_counts, wm0_counts = wm1.counters, wm0.counters  # the latter's output came in by wm1
            return wm1_counts["opackets"], wm1_counts["ipackets"], wm0_counts["opackets"]

        def stop() -> None:
            wm1.driver.stop()
            after.append(counted())

        m.spawn(stop, cpu=0)
        m.run()
        m.audit()
        assert after == [counted()], f"after stop: {after}, at the end: {counted()}"
        return counted()


@scenario("interface-detach")
def interface_detach() -> object:
    """An interface is destroyed under traffic: every frame and mbuf is accounted for."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m)
        trickle(m, [(wm0, frame(B, A, 1)), (wm1, frame(A, B, 2)), (wm0, frame(B, A, 3))])
        m.spawn(lambda: m.destroy(wm1), cpu=0, name="destroyer")
        m.run()
        m.audit()
        assert [ifp.name for ifp in br.members] == ["wm0"]
        assert "wm1" not in m.interfaces
        return wm0.counters["opackets"]


@scenario("generic-classic")
def generic_classic() -> object:
    """The GENERIC kernel with the classic frame: two CPUs receive, forwarding is under KERNEL_LOCK."""
    with Machine(ncpu=2, kernel="GENERIC", frame="classic") as m:
        _, (wm0, wm1) = bridged(m)
        wm0.wire.send([frame(B, A, 1), frame(B, A, 2)])
        wm1.wire.send(frame(A, B, 3))
        m.run()
        m.audit()
        out = [number_of(each) for each in wm1.wire.recv()], [number_of(each) for each in wm0.wire.recv()]
        assert out == ([1, 2], [3]), f"frames out: {out}"
        return m.engine.kernel_lock.is_mine


@scenario("compiled-path")
def compiled_path() -> object:
    """The compiled run loop on two CPUs: frames out as by the stages, with a flush meanwhile."""
    with Machine(ncpu=2, path="compiled") as m:
        br, (wm0, wm1) = bridged(m)
        wm0.wire.send([frame(B, A, 1), frame(B, A, 2)])
        wm1.wire.send(frame(A, B, 3))
        m.spawn(br.flush, cpu=1, name="flush")
        m.run()
        m.audit()
        out = [number_of(each) for each in wm1.wire.recv()], [number_of(each) for each in wm0.wire.recv()]
        assert out == ([1, 2], [3]), f"frames out: {out}"
        return br.counters["flooded"]
