"""Scenarios of the bridge under traffic: members that leave, flush, stations that move, growth.

Frames are on the wires before anything runs; which CPU takes them when, and what a control thread
does meanwhile, is for the schedule to decide.
"""

from __future__ import annotations

from netstack._fast.mbuf import MbufVec
from netstack.explore.frames import bridged, frame, number_of, station, trickle
from netstack.explore.library import scenario
from netstack.machine.api import Cpu
from netstack.net.bridge_ctl import Bridge
from netstack.net.ifnet import Ifnet, format_mac, parse_mac
from netstack.topology import Machine

__all__: list[str] = []

A, B, C = station(1), station(2), station(3)


def sent(ifp: Ifnet) -> list[int]:
    """Return the numbers of the frames an interface has put on its cable."""
    return [number_of(each) for each in ifp.wire.recv()]


@scenario("member-delete")
def member_delete() -> object:
    """When delete returns, the member sends nothing and none of its addresses is in the table."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m)
        arriving = [(wm0, frame(B, A, 1)), (wm1, frame(A, B, 2)), (wm0, frame(B, A, 3)), (wm1, frame(A, C, 4))]
        after: list[int] = []

        def delete() -> None:
            br.delete(wm1)
            assert wm1.bridge is None
            after.append(wm1.counters["opackets"])
            left = addresses_of_nobody(br)
            assert not left, f"entries of the member are left: {left}"

        trickle(m, arriving)
        m.spawn(delete, cpu=1)
        m.run()
        m.audit()
        out = wm1.counters["opackets"]
        assert after == [out], f"{out - after[0]} frames left by wm1 after delete returned"
        left = addresses_of_nobody(br)
        assert not left, f"entries of the member have come back: {left}"
        return sorted(sent(wm1)), sorted(sent(wm0))


def addresses_of_nobody(br: Bridge) -> list[tuple[str, int]]:
    """Return raw entries of the table that no member of the bridge has."""
    found = []
    for mac, number, *_ in br.rtable.table.entries():
        member = br.rtable.member_of(number)
        if member is None or member not in br.iflist:
            found.append((format_mac(mac), number))
    return found


@scenario("member-delete-held")
def member_delete_held() -> object:
    """A thread sends by a member and sleeps on the way: delete waits for its reference."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m)
        engine = m.engine
        is_deleted = is_told = False
        inside = wm1.if_transmit

        def transmit(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
            assert not is_deleted, "a frame goes to the member after delete returned"
            engine.wait_until(lambda: is_told, "another thread to tell")
            assert not is_deleted, "delete returned while a frame goes through the member"
            inside(ifp, mv, cpu)

        wm1.if_transmit = transmit

        def tell() -> None:
            nonlocal is_told
            engine.charge("switch")
            is_told = True

        def delete() -> None:
            nonlocal is_deleted
            br.delete(wm1)
            is_deleted = True

        m.spawn(lambda: wm0.send(frame(B, parse_mac(wm0.mac), 1)), cpu=0, name="sender")
        m.spawn(tell, cpu=0)
        m.spawn(delete, cpu=1)
        m.run()
        m.audit()
        return len(sent(wm1))


@scenario("flush-learning")
def flush_learning() -> object:
    """A flush under learning: counts are right, and what is learned after it stays."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m)
        br.static(wm1, C)
        trickle(m, [(wm0, frame(C, A, 1)), (wm1, frame(A, station(9), 3)), (wm0, frame(C, B, 2))])
        seen: list[int] = []

        def flush() -> None:
            br.flush()
            seen.append(br.rtable.table.count)

        m.spawn(flush, cpu=1)
        m.run()
        m.audit()
        rows = br.addresses()
        assert [row[0] for row in rows if row[4] == "STATIC"] == ["02:00:00:00:00:03"], rows
        learned = [row for row in rows if row[4] != "STATIC"]
        assert len(learned) == br.rtable.table.count, f"{len(learned)} entries, counted {br.rtable.table.count}"
        assert br.counters["learned"] >= len(learned)
        wm0.wire.send([frame(C, A, 4), frame(C, B, 5)])
        m.run()
        assert {row[0] for row in br.addresses()} >= {"02:00:00:00:00:01", "02:00:00:00:00:02"}
        return sorted(row[0] for row in learned)


@scenario("station-move", ncpu=3)
def station_move() -> object:
    """A station that is heard on two ports at once is entered once, and each frame to it leaves once."""
    with Machine(ncpu=3) as m:
        br, (wm0, wm1, wm2) = bridged(m, 3)
        wm0.wire.send(frame(station(9), A, 1))
        m.run()
        for ifp in (wm0, wm1, wm2):
            ifp.wire.recv()
        wm1.wire.send(frame(station(9), A, 2))
        wm0.wire.send(frame(station(9), A, 3))
        wm2.wire.send(frame(A, C, 4))
        m.run()
        m.audit()
        places = [row[2] for row in br.addresses() if row[0] == "02:00:00:00:00:01"]
        assert len(places) == 1, f"the station is in the table {len(places)} times: {places}"
        out = [ifp.name for ifp in (wm0, wm1, wm2) if 4 in sent(ifp)]
        assert out in (["wm0"], ["wm1"]), f"the frame to the station left by {out or 'nothing'}"
        return places[0], out[0]


@scenario("maxaddr-growth")
def maxaddr_growth() -> object:
    """The table is replaced by a larger one under learning: no station is forgotten."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m, maxaddr=4)
        stations = [(wm0, A), (wm1, C), (wm0, B)]
        trickle(m, [(ifp, frame(station(9), source)) for ifp, source in stations])

        def grow() -> None:
            br.maxaddr = 4000

        m.spawn(grow, cpu=1)
        m.run()
        m.audit()
        known = {row[0] for row in br.addresses()}
        wanted = {f"02:00:00:00:00:0{n}" for n in (1, 2, 3)}
        assert known == wanted, f"stations {sorted(wanted - known)} were forgotten"
        table = br.rtable.table
        assert (br.maxaddr, table.count) == (4000, 3), f"counted {table.count} of {br.maxaddr}"
        return br.counters["learned"]


@scenario("ageing")
def ageing() -> object:
    """The ageing sweep under traffic removes who is silent, and no other."""
    with Machine(ncpu=2) as m:
        br, (wm0, wm1) = bridged(m, timeout=4)
        wm0.wire.send(frame(B, A, 1))
        m.run()
        m.run(seconds=3)
        wm1.wire.send(frame(A, B, 2))
        m.run(seconds=2)
        m.audit()
        known = {row[0] for row in br.addresses()}
        assert known == {"02:00:00:00:00:02"}, f"known after 5 s: {sorted(known)}"
        return len(sent(wm0)) + len(sent(wm1))
