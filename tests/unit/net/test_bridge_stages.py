"""The readable data plane: what each stage does with a frame, without devices."""

from errno import EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS

import pytest
from unit.net.stages import StageMachine, frame, mac

from netstack.errors import NetstackError
from netstack.net.bridge import bridge_input
from netstack.net.ether import ether_input
from netstack.net.ifnet import if_transmit

A, B, C = mac(1), mac(2), mac(3)
EVERYBODY = b"\xff" * 6


def test_unknown_floods_then_known_is_forwarded() -> None:
    m = StageMachine("if0", "if1", "if2")
    m.bridge("if0", "if1", "if2")
    if0, if1, _ = m.interfaces.values()
    m.receive(if0, frame(B, A))
    assert m.sent == {"if0": [], "if1": [frame(B, A)], "if2": [frame(B, A)]}
    m.receive(if1, frame(A, B))
    assert m.sent["if0"] == [frame(A, B)]
    assert len(m.sent["if2"]) == 1


def test_station_that_moves_is_found_in_its_own_burst() -> None:
    m = StageMachine("if0", "if1")
    m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    m.receive(if1, frame(B, A))  # A is on if1
    m.receive(if0, [frame(A, B), frame(B, A), frame(A, B)])
    # the first goes to if1; then A has moved to if0, where B is too
    assert m.sent["if1"] == [frame(A, B)]
    assert m.drops() == {"same_member": 2}


def test_group_frame_goes_everywhere_and_to_listeners() -> None:
    m = StageMachine("if0", "if1", "if2")
    m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()
    if0.listen()
    if2.listen()
    m.receive(if0, frame(EVERYBODY, A))
    assert m.sent == {"if0": [], "if1": [frame(EVERYBODY, A)], "if2": [frame(EVERYBODY, A)]}
    assert (if0.recv(), if1.recv(), if2.recv()) == (
        [frame(EVERYBODY, A)],
        [],
        [frame(EVERYBODY, A)],
    )
    assert if0.recv() == []


def test_own_address_on_another_member_reaches_its_owner() -> None:
    m = StageMachine("if0", "if1")
    m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    if1.listen()
    m.receive(if0, frame(if1.block.mac, A))
    assert if1.recv() == [frame(if1.block.mac, A)]
    assert m.sent == {"if0": [], "if1": []}
    m.receive(if0, frame(B, if1.block.mac))
    assert m.drops() == {"own_source": 1}


def test_interface_in_no_bridge_takes_only_its_own() -> None:
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    m.receive(if0, [frame(B, A), frame(if0.block.mac, A), frame(EVERYBODY, A)])
    assert m.drops() == {"not_for_us": 1, "no_proto": 2}
    if0.listen()
    m.receive(if0, [frame(if0.block.mac, A), frame(EVERYBODY, A)])
    assert if0.recv() == [frame(if0.block.mac, A), frame(EVERYBODY, A)]


def test_bridge_that_is_down_acts_as_none() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, _ = m.interfaces.values()
    br.down()
    m.receive(if0, [frame(B, A), frame(if0.block.mac, A)])
    assert m.drops() == {"not_for_us": 1, "no_proto": 1}
    br.up()
    m.receive(if0, frame(B, A))
    assert m.sent["if1"] == [frame(B, A)]


@pytest.mark.parametrize(
    ("state", "forwards", "learns"),
    [
        ("disabled", False, False),
        ("listening", False, False),
        ("learning", False, True),
        ("forwarding", True, True),
        ("blocking", False, False),
    ],
)
def test_state_of_the_ingress_member(state: str, forwards: bool, learns: bool) -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, _ = m.interfaces.values()
    br.stp(if0)
    br.set_state(if0, state)
    m.receive(if0, frame(B, A))
    assert bool(m.sent["if1"]) is forwards
    assert bool(br.addresses()) is learns
    assert m.drops() == ({} if forwards else {"stp_state": 1})


@pytest.mark.parametrize(
    ("state", "reaches"),
    [("disabled", 0), ("listening", 3), ("learning", 3), ("forwarding", 3), ("blocking", 0)],
)
def test_state_of_the_egress_member(state: str, reaches: int) -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    br.stp(if1)
    br.static(if1, B)
    br.set_state(if1, state)
    m.receive(if0, [frame(B, A), frame(C, A), frame(EVERYBODY, A)])
    assert len(m.sent["if1"]) == reaches
    assert m.drops() == ({} if reaches else {"stp_state": 1, "no_egress": 2})


def test_control_addresses_stay_unless_asked() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, _ = m.interfaces.values()
    control = [bytes.fromhex("0180c20000") + bytes([last]) for last in range(17)]
    m.receive(if0, [frame(dst, A) for dst in control])
    assert [f[:6] for f in m.sent["if1"]] == control[16:]
    assert m.drops() == {"control_addr": 16}
    br.forward_control = True
    m.receive(if0, [frame(dst, A) for dst in control])
    assert [f[:6] for f in m.sent["if1"]] == control[16:] + control


def test_hook_on_if_input_and_its_removal() -> None:
    m = StageMachine("if0", "if1")
    m.bridge("if0", "if1")
    if0, _ = m.interfaces.values()
    seen: list[bytes] = []

    def tap(ifp, mv, cpu):  # type: ignore[no-untyped-def]
        seen.extend(mv.frames())
        old(ifp, mv, cpu)

    old = if0.if_input
    assert old is bridge_input
    assert if0.block.table == "bridge"
    if0.if_input = tap
    assert if0.block.table == "punt"
    m.receive(if0, frame(B, A))
    assert seen == m.sent["if1"] == [frame(B, A)]
    if0.if_input = old
    assert if0.block.table == "bridge"
    m.receive(if0, frame(B, A))
    assert len(seen) == 1
    assert len(m.sent["if1"]) == 2


def test_transmit_hook_that_keeps_nothing_loses_by_name() -> None:
    m = StageMachine("if0", "if1")
    m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    if1.if_transmit = lambda ifp, mv, cpu: None
    assert if1.block.tx_hook
    m.receive(if0, [frame(B, A)] * 3)
    assert m.drops() == {"hook": 3}
    assert m.pool.free_count == m.pool.nmbufs


def test_transmit_hook_that_raises_costs_no_frame_of_others() -> None:
    m = StageMachine("if0", "if1", "if2")
    br = m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()

    def broken(ifp, mv, cpu):  # type: ignore[no-untyped-def]
        raise RuntimeError("hook failed")

    if2.if_transmit = broken
    with pytest.raises(RuntimeError, match="hook failed"):
        m.receive(if0, frame(B, A))
    assert m.drops() == {"hook": 2}, "what was split is counted, whoever got it"
    assert m.pool.free_count == m.pool.nmbufs
    br.delete(if2)  # the reference was given back
    m.receive(if0, frame(B, A))
    assert m.sent["if1"] == [frame(B, A)]
    assert if1.bridge is br


def test_if_transmit_without_queues_drops() -> None:
    m = StageMachine("if0", "if1")
    m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    if1.set_transmit(if_transmit)
    m.receive(if0, frame(B, A))
    assert m.drops() == {"tx_error": 1}


def test_membership_swaps_the_input_slot() -> None:
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    assert (if0.if_input, if0.block.table) == (ether_input, "ether")
    br = m.bridge("if0")
    assert (if0.if_input, if0.block.table) == (bridge_input, "bridge")
    br.delete(if0)
    assert (if0.if_input, if0.block.table) == (ether_input, "ether")


# What the local stack sends.


def test_send_from_the_program_goes_out_on_cpu_0() -> None:
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    if0.send(frame(B, if0.block.mac))
    assert m.sent["if0"] == []
    m.engine.run()
    assert m.sent["if0"] == [frame(B, if0.block.mac)]
    assert if0.counters["originated"] == 1


def test_send_by_a_bridge() -> None:
    m = StageMachine("if0", "if1", "if2")
    br = m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()
    if1.listen()
    br.static(if2, B)
    own = if0.block.mac
    if0.send(frame(B, own))  # known: leaves where the table says
    if0.send(frame(C, own))  # unknown: everywhere, the chosen one included
    if0.send(frame(EVERYBODY, own))
    if0.send(frame(if1.block.mac, own))  # own address: to its owner
    m.engine.run()
    assert m.sent["if0"] == [frame(C, own), frame(EVERYBODY, own)]
    assert m.sent["if1"] == [frame(C, own), frame(EVERYBODY, own)]
    assert m.sent["if2"] == [frame(B, own), frame(C, own), frame(EVERYBODY, own)]
    assert if1.recv() == [frame(EVERYBODY, own), frame(if1.block.mac, own)]
    br.down()
    if0.send(frame(B, own))
    m.engine.run()
    assert m.sent["if0"][-1] == frame(B, own)


def test_send_skips_members_that_may_not() -> None:
    m = StageMachine("if0", "if1", "if2")
    br = m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()
    for ifp in (if0, if1):
        br.stp(ifp)
        br.set_state(ifp, "listening")
    if2.down()
    if0.send(frame(EVERYBODY, if0.block.mac))
    m.engine.run()
    assert (len(m.sent["if0"]), len(m.sent["if1"]), len(m.sent["if2"])) == (1, 0, 0)
    br.static(if2, B)
    if0.send(frame(B, if0.block.mac))
    m.engine.run()
    assert m.drops() == {"no_egress": 1}


def test_send_errors() -> None:
    m = StageMachine("if0", nmbufs=8)
    (if0,) = m.interfaces.values()
    with pytest.raises(NetstackError, match="1515 bytes") as caught:
        if0.send(frame(B, A, size=1515))
    assert caught.value.errno == EMSGSIZE
    if0.send(frame(B, A, 0x8100, size=1518))
    with pytest.raises(NetstackError, match="no Ethernet header") as caught:
        if0.send(b"\0" * 13)
    assert caught.value.errno == EINVAL
    with pytest.raises(NetstackError, match="buffer of bytes") as caught:
        if0.send("text")  # type: ignore[arg-type]
    assert caught.value.errno == EINVAL
    with pytest.raises(NetstackError, match="wait to be sent") as caught:
        for _ in range(5000):
            if0.send(frame(B, A))
    assert caught.value.errno == ENOBUFS
    m.engine.run()
    if0.down()
    with pytest.raises(NetstackError, match=r"if0\.up") as caught:
        if0.send(frame(B, A))
    assert caught.value.errno == ENETDOWN


# Protocol handlers.


def test_handlers_get_their_ethertype_and_the_rest_is_dropped_by_name() -> None:
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    got: list[tuple[str, list[bytes]]] = []
    m.netisr.register(0x0806, lambda ifp, frames: got.append((ifp.name, frames)))
    arp, ip = frame(EVERYBODY, A, 0x0806), frame(EVERYBODY, A, 0x0800)
    m.receive(if0, [arp, ip, arp])
    assert got == [("if0", [arp, arp])]
    assert m.drops() == {"no_proto": 1}
    assert if0.counters["delivered"] == 2
    m.receive(if0, [ip, ip])
    assert m.drops() == {"no_proto": 3}
    if0.listen()
    m.receive(if0, [ip, arp])
    assert if0.recv() == [ip, arp]
    assert got[1:] == [("if0", [arp])]
    with pytest.raises(NetstackError, match="0x0806"):
        m.netisr.register(0x0806, print)
    m.netisr.unregister(0x0806)
    with pytest.raises(NetstackError, match="no handler"):
        m.netisr.unregister(0x0806)
    assert m.pool.free_count == m.pool.nmbufs


def test_handler_for_all() -> None:
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    got: list[bytes] = []
    m.netisr.register(None, lambda ifp, frames: got.extend(frames))
    sent = [frame(EVERYBODY, A, 0x0806), frame(EVERYBODY, A, 0x0800)]
    m.receive(if0, sent)
    assert got == sent
    m.netisr.unregister(None)
    m.receive(if0, sent)
    assert m.drops() == {"no_proto": 2}


def test_recv_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netstack.net.ifnet.IF_RECVQ_MAXLEN_FRAMES", 3)
    m = StageMachine("if0")
    (if0,) = m.interfaces.values()
    if0.listen()
    frames = [frame(EVERYBODY, mac(i)) for i in range(5)]
    m.receive(if0, frames)
    assert if0.recv() == frames[:3]
    assert if0.counters["recv_overflow"] == 2
