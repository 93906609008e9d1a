"""The published port map: what it may say, and what replaces it when (paper §2.3.2, §3.2.2)."""

import pytest
from frames import frame, station
from unit.fast.rig import Rig, own_mac

from netstack._fast import kernels
from netstack._fast.bridge import BridgeBlock, PortSpec
from netstack._fast.ifnet import NO_PORT_INDEX, IfnetBlock
from netstack._fast.mactable import MacTable
from netstack._fast.pserialize import PSerialize

PORT_MAX = 252
COUNTERS = {"ipackets", "ibytes", "imcasts", "learned", "moved", "table_full", "flooded"}

A, B = station(1), station(2)


def empty() -> BridgeBlock:
    return BridgeBlock(0, MacTable(10, 1), PSerialize(1))


def spec(ifp: IfnetBlock | None, **changes: object) -> PortSpec:
    plain = PortSpec(ifp, "forward", True, False, False, -1, (), ())
    return plain._replace(**changes)  # type: ignore[attr-defined]


def test_a_new_bridge_is_down_and_counts_nothing() -> None:
    br = empty()
    assert br.counters() == dict.fromkeys(COUNTERS, 0)
    rig = Rig(1, bridged=False)
    mv = rig.parsed([frame(A, B)])
    assert kernels.bridge_decide(rig.cpu, rig.br, rig.nics[0].ifp, mv) == 0
    assert len(mv) == 1


def test_252_members_and_no_more() -> None:
    br = empty()
    ports = [spec(IfnetBlock(i + 1, own_mac(i % 250))) for i in range(PORT_MAX)]
    everyone = list(range(PORT_MAX))
    br.publish([p._replace(unknown=everyone, group=everyone) for p in ports], True, False)
    with pytest.raises(ValueError, match="at most 252"):
        br.publish([*ports, ports[0]], True, False)


@pytest.mark.parametrize("field", ["unknown", "group"])
@pytest.mark.parametrize("named", [-1, 1, 2, 300])
def test_flood_lists_name_ports_that_exist(field: str, named: int) -> None:
    br = empty()
    ifp = IfnetBlock(1, own_mac(1))
    with pytest.raises(ValueError, match="flood list of port 0"):
        br.publish([spec(ifp, **{field: [named]}), spec(None)], True, False)


def test_an_ingress_state_that_does_not_exist_is_refused_and_the_old_map_stays() -> None:
    rig = Rig(2)
    bad = [rig.spec(0)._replace(ingress="asleep"), rig.spec(1)]  # type: ignore[attr-defined]
    with pytest.raises(KeyError):
        rig.br.publish(bad, True, False)
    with pytest.raises(TypeError):
        rig.br.publish([spec("no interface")], True, False)  # type: ignore[arg-type]
    assert rig.bridge([frame(B, A)]) == {1: [frame(B, A)]}


def test_publish_hands_out_the_old_map_and_frames_follow_the_new_one() -> None:
    rig = Rig(3)
    assert set(rig.bridge([frame(B, A)])) == {1, 2}
    old = rig.publish({0: {"unknown": [2]}})
    assert old is not None
    assert set(rig.bridge([frame(B, A)])) == {2}
    assert rig.publish() is not old


def test_a_vector_is_split_by_the_map_it_was_decided_by() -> None:
    rig = Rig(3)
    mv = rig.parsed([frame(B, A)])
    ifp = rig.nics[0].ifp
    rig.psz.read_enter(0)
    assert kernels.bridge_decide(rig.cpu, rig.br, ifp, mv) == 1
    old = rig.publish({0: {"unknown": []}}, running=False)
    rig.br.detach(ifp)
    outputs = kernels.bridge_split(rig.cpu, rig.br, ifp, mv)
    rig.psz.read_exit(0)
    assert [(index, part.frames()) for index, part in outputs] == [
        (2, [frame(B, A)]),
        (3, [frame(B, A)]),
    ]
    del old


def test_split_without_a_decision_does_nothing() -> None:
    rig = Rig(2)
    mv = rig.parsed([frame(B, A)])
    assert kernels.bridge_split(rig.cpu, rig.br, rig.nics[0].ifp, mv) == []
    assert len(mv) == 1


def test_attach_and_detach_tell_the_interface() -> None:
    rig = Rig(1, bridged=False)
    ifp = rig.nics[0].ifp
    assert ifp.port == NO_PORT_INDEX
    rig.br.attach(ifp, 7)
    assert ifp.port == 7
    rig.br.detach(ifp)
    assert ifp.port == NO_PORT_INDEX
    for port in (-1, PORT_MAX):
        with pytest.raises(ValueError, match="no port"):
            rig.br.attach(ifp, port)


def test_a_port_of_another_interface_is_not_ours() -> None:
    rig = Rig(2)
    stranger = IfnetBlock(9, own_mac(9))
    rig.br.attach(stranger, 1)  # says port 1, but the map has nic 1 there
    stranger.flags = rig.nics[1].ifp.flags
    mv = rig.parsed([frame(B, A)])
    assert kernels.bridge_decide(rig.cpu, rig.br, stranger, mv) == 0
    assert rig.table.lookup(A) is None


def test_a_new_table_is_used_from_the_next_vector_on() -> None:
    rig = Rig(2)
    rig.bridge([frame(B, A)])
    other = MacTable(100, 2)
    assert rig.br.set_table(other) is rig.table
    assert rig.br.table is other
    rig.bridge([frame(A, B)], port=1)  # A is unknown there: flooded
    assert (other.lookup(A), other.lookup(B)) == (None, (1, 1))
    assert rig.br.counters()["flooded"] == 2


def test_counters_add_up() -> None:
    rig = Rig(3, maxaddr=2)
    rig.bridge([frame(B, A, nbytes=100), frame(b"\xff" * 6, A)])  # flooded both
    rig.bridge([frame(A, B)], port=1)
    rig.bridge([frame(A, B)], port=2)  # B has moved
    rig.bridge([frame(A, station(3))], port=1)  # the table is full
    rig.bridge([frame(A, A)], port=0)  # to the member it came from: not forwarded
    assert rig.br.counters() == {
        "ipackets": 5,
        "ibytes": 100 + 4 * 60,
        "imcasts": 1,
        "learned": 2,
        "moved": 1,
        "table_full": 1,
        "flooded": 2,
    }
