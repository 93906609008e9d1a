"""The bridge's decision, frame by frame: every outcome, its order, its counters (paper §2.3.2, §3.2.2)."""

import pytest
from frames import BROADCAST, frame, serial_of, station
from unit.fast.rig import Rig, own_mac

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.ifnet import FLAG_LISTEN, FLAG_UP
from netstack._fast.mbuf import MbufVec

A, B, C, D = map(station, range(1, 5))
GROUP = bytes.fromhex("01005e000001")
BPDU = bytes.fromhex("0180c2000000")
CONTROL = [bytes.fromhex("0180c20000") + bytes([last]) for last in range(16)]
NOT_CONTROL = bytes.fromhex("0180c2000010")
ZERO = bytes(6)


def known(rig: Rig, *places: tuple[bytes, int]) -> None:
    """Have stations learned on ports."""
    for mac, port in places:
        rig.bridge([frame(BROADCAST, mac)], port)
    assert all(rig.table.lookup(mac)[0] == port for mac, port in places)  # type: ignore[index]


def fate(rig: Rig, each: bytes, port: int = 0) -> dict[int, list[bytes]] | str:
    """Return where a frame went: {port: frames}, or the name of the drop."""
    before = dict(rig.nics[port].ifp.drops())
    outputs = rig.bridge([each], port)
    lost = {
        name: n - before.get(name, 0)
        for name, n in rig.nics[port].ifp.drops().items()
        if n != before.get(name, 0)
    }
    if outputs:
        assert not lost
        return outputs
    assert list(lost.values()) == [1], f"one frame, one disposition: {lost}"
    return next(iter(lost))


def test_unknown_is_flooded_known_is_forwarded_own_side_is_filtered() -> None:
    rig = Rig(3)
    first = frame(B, A)
    assert fate(rig, first) == {1: [first], 2: [first]}
    known(rig, (B, 2), (C, 0))
    assert fate(rig, first) == {2: [first]}
    assert fate(rig, frame(C, A)) == "same_member"
    assert fate(rig, frame(A, A)) == "same_member"


@pytest.mark.parametrize("dst", [BROADCAST, GROUP, NOT_CONTROL])
def test_group_frames_go_to_all_others(dst: bytes) -> None:
    rig = Rig(3)
    known(rig, (B, 2))
    each = frame(dst, A)
    assert fate(rig, each, 1) == {0: [each], 2: [each]}


def test_unknown_and_group_floods_have_lists_of_their_own_and_an_order() -> None:
    rig = Rig(4)
    rig.publish({0: {"unknown": [3, 1], "group": [2, 3, 1]}})
    mv = rig.parsed([frame(B, A), frame(GROUP, A)])
    kernels.bridge_decide(rig.cpu, rig.br, rig.nics[0].ifp, mv)
    parts = kernels.bridge_split(rig.cpu, rig.br, rig.nics[0].ifp, mv)
    assert [(index - 1, len(part)) for index, part in parts] == [(3, 2), (1, 2), (2, 1)]
    rig.publish({0: {"unknown": []}})
    assert fate(rig, frame(B, A)) == "no_egress"


def test_learning_precedes_each_frames_own_look_up() -> None:
    rig = Rig(3)
    known(rig, (A, 1))
    # A answers from port 0 in the middle of a burst: later frames for it are filtered there
    burst = [frame(A, B, 0), frame(B, A, 1), frame(A, B, 2)]
    outputs = rig.bridge(burst)
    assert {port: [serial_of(each) for each in sent] for port, sent in outputs.items()} == {1: [0]}
    assert rig.nics[0].ifp.drops() == {"same_member": 2}
    assert rig.br.counters()["moved"] == 1


def test_a_burst_equals_its_frames_one_at_a_time() -> None:
    stations = [A, B, C, D, own_mac(1), own_mac(2), BROADCAST, BPDU, ZERO, station(9)]
    sources = [A, B, C, D, own_mac(2), GROUP, ZERO]
    burst = [
        frame(dst, src, i * 10 + k) for i, dst in enumerate(stations) for k, src in enumerate(sources)
    ]
    whole, single = Rig(3), Rig(3)
    together = whole.bridge(burst)
    apart: dict[int, list[bytes]] = {}
    for each in burst:
        for port, frames in single.bridge([each]).items():
            apart.setdefault(port, []).extend(frames)
    assert together == apart
    assert whole.br.counters() == single.br.counters()
    assert whole.nics[0].ifp.drops() == single.nics[0].ifp.drops()
    assert sorted(whole.table.entries()) == sorted(single.table.entries())


def test_what_is_never_learned() -> None:
    rig = Rig(2)
    rig.table.add_static(D, 1)
    rig.publish({1: {"learn": False}})
    for port, src in ((0, ZERO), (0, GROUP), (0, own_mac(2)), (0, D), (1, A)):
        rig.bridge([frame(B, src)], port)
    assert rig.table.count == 0
    assert rig.table.lookup(D) == (1, 255)
    assert rig.table.lookup(own_mac(2)) == (1, 254)
    assert rig.br.counters()["learned"] == 0


def test_own_addresses() -> None:
    rig = Rig(3)
    assert fate(rig, frame(own_mac(2), A)) == "no_proto"
    rig.nics[1].ifp.flags |= FLAG_LISTEN
    assert rig.bridge([frame(own_mac(2), A, 7)]) == {}
    mv = MbufVec(rig.pool, 0)
    assert (rig.cpu.punt_take(mv), mv.rcvif) == ("local", 2)
    assert mv.frames() == [frame(own_mac(2), A, 7)]
    assert fate(rig, frame(B, own_mac(3))) == "own_source"
    assert rig.bridge([frame(own_mac(2), own_mac(3))]) == {}, "local delivery comes first"
    assert rig.cpu.punt_len == 1


def test_listeners_hear_group_frames_of_all_members() -> None:
    rig = Rig(3)
    for nic in rig.nics[:2]:
        nic.ifp.flags |= FLAG_LISTEN
    each = frame(GROUP, A, 5)
    assert rig.bridge([each], 1) == {0: [each], 2: [each]}
    heard = []
    for _ in range(2):
        mv = MbufVec(rig.pool, 0)
        assert rig.cpu.punt_take(mv) == "local"
        heard.append((mv.rcvif, mv.frames()))
        mv.clear()
    assert heard == [(1, [each]), (2, [each])]
    counted = rig.nics[1].ifp.counters()
    assert counted["copies"] == 3  # two listeners, one more port
    assert rig.in_use == 0


@pytest.mark.parametrize("dst", CONTROL)
def test_control_addresses_stay_on_their_wire_unless_told_otherwise(dst: bytes) -> None:
    rig = Rig(2)
    assert fate(rig, frame(dst, A)) == "control_addr"
    assert rig.table.lookup(A) is None
    rig.publish({0: {"stp": True}})
    assert fate(rig, frame(dst, A)) == "control_addr"
    rig.publish(forward_control=True)
    assert fate(rig, frame(dst, A)) == {1: [frame(dst, A)]}


def test_a_port_that_does_not_forward_hears_only_what_is_for_it() -> None:
    rig = Rig(2)
    rig.publish({0: {"ingress": "local"}})
    assert fate(rig, frame(B, A)) == "stp_state"
    assert fate(rig, frame(own_mac(2), A)) == "stp_state"
    assert fate(rig, frame(own_mac(1), A)) == "no_proto"
    assert fate(rig, frame(GROUP, A)) == "no_proto"
    assert rig.table.lookup(A) is None


def test_a_learning_port_learns_and_drops_but_for_local_frames() -> None:
    rig = Rig(2)
    rig.publish({0: {"ingress": "learn"}})
    for dst, src, reason in (
        (B, A, "stp_state"),
        (GROUP, C, "stp_state"),
        (own_mac(2), D, "no_proto"),
    ):
        assert fate(rig, frame(dst, src)) == reason
        assert rig.table.lookup(src) == (0, 1)


def test_protected_members_do_not_reach_each_other() -> None:
    rig = Rig(3)
    known(rig, (B, 1), (C, 2))
    rig.publish({0: {"is_protected": True}, 1: {"is_protected": True}})
    assert fate(rig, frame(B, A)) == "protected"
    assert fate(rig, frame(C, A)) == {2: [frame(C, A)]}
    assert fate(rig, frame(A, C), 2) == {0: [frame(A, C)]}


def test_what_a_member_may_not_send_is_dropped_for_the_maps_reason() -> None:
    rig = Rig(2)
    known(rig, (B, 1))
    for reason in (Drop.RUNT, Drop.IF_DOWN, Drop.STP_STATE):
        rig.publish({1: {"egress_drop": int(reason)}})
        assert fate(rig, frame(B, A)) == reason.name.lower()


def test_an_entry_of_a_member_that_left() -> None:
    rig = Rig(3)
    known(rig, (B, 2))
    specs = [rig.spec(0), rig.spec(1), rig.spec(2, ifnet=None)]
    specs[0] = specs[0]._replace(unknown=[1], group=[1])  # type: ignore[attr-defined]
    specs[1] = specs[1]._replace(unknown=[0], group=[0])  # type: ignore[attr-defined]
    rig.br.publish(specs, True, False)
    for dst in (B, own_mac(3)):
        assert list(fate(rig, frame(dst, A))) == [1], "as good as unknown: flooded"


def test_a_table_that_names_ports_beyond_the_map() -> None:
    rig = Rig(2)
    rig.table.add_static(B, 200)
    rig.table.add_local(C, 201)
    rig.table.add_static(D, 251)
    for dst in (B, C, D):
        assert list(fate(rig, frame(dst, A))) == [1], "as good as unknown: flooded"


def test_floods_without_mbufs_reach_whom_they_can() -> None:
    rig = Rig(4, nmbufs=4 * 64 + 2)
    each = frame(B, A)
    mv = rig.parsed([each])
    assert rig.pool.free_count == 1
    ifp = rig.nics[0].ifp
    kernels.bridge_decide(rig.cpu, rig.br, ifp, mv)
    parts = kernels.bridge_split(rig.cpu, rig.br, ifp, mv)
    assert [part.frames() for _, part in parts] == [[each], [each]]  # one of three is lost
    assert ifp.drops() == {"no_mbuf": 1}
    assert ifp.counters()["copies"] == 2
    parts.clear()
    assert rig.in_use == 0


def test_copies_are_copies_of_chains_too() -> None:
    rig = Rig(3)
    rig.nics[0].ifp.maxlen = 9000
    each = frame(B, A, 3, 8000)
    assert rig.bridge([each]) == {1: [each], 2: [each]}
    assert rig.in_use == 0


def test_when_down_the_interface_is_as_if_in_no_bridge() -> None:
    rig = Rig(2)
    rig.publish(running=False)
    mv = rig.parsed([frame(B, A)])
    assert kernels.bridge_decide(rig.cpu, rig.br, rig.nics[0].ifp, mv) == 0
    kernels.ether_local(rig.cpu, rig.nics[0].ifp, mv)
    assert rig.nics[0].ifp.drops() == {"not_for_us": 1}
    rig.nics[0].ifp.flags = FLAG_UP
    assert rig.bridge([frame(B, A)]) == {}
    assert rig.nics[0].ifp.drops() == {"not_for_us": 1, "if_down": 1}


def test_a_large_table_is_decided_alike() -> None:
    small, large = Rig(2, maxaddr=300), Rig(2, maxaddr=40_000)  # the second prefetches
    burst = [frame(station(n % 50), station(n % 70 + 20), n) for n in range(250)]
    for rig in (small, large):
        rig.bridge([frame(BROADCAST, station(n)) for n in range(40)], 1)
    for _ in range(2):
        assert small.bridge(burst) == large.bridge(burst)
    assert small.br.counters() == large.br.counters()
    assert small.nics[0].ifp.drops() == large.nics[0].ifp.drops()


def test_a_steady_vector_changes_nothing() -> None:
    rig = Rig(2)
    known(rig, (A, 0), (B, 1))
    before = rig.table.entries(), rig.br.counters()["learned"]
    assert rig.bridge([frame(B, A, n) for n in range(256)])[1][255] == frame(B, A, 255)
    assert (rig.table.entries(), rig.br.counters()["learned"]) == before
    rig.cpu.now_ns = 5_000_000_000
    rig.bridge([frame(B, A)])
    assert rig.table.lookup(A) == (0, 6), "traffic refreshes the age"
