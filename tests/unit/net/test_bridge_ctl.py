"""The bridge's control plane: verbs, NetBSD's errors, what the table holds after each."""

from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC

import pytest
from unit.net.stages import StageMachine, frame, mac

from netstack.errors import NetstackError
from netstack.net.bridge_ctl import Bridge
from netstack.net.ifnet import IFF

A, B, C = mac(1), mac(2), mac(3)


def refused(errno: int, text: str):  # type: ignore[no-untyped-def]
    """Expect a NetstackError with an errno and a text."""

    class Refused:
        def __enter__(self) -> None:
            self.inner = pytest.raises(NetstackError, match=text)
            self.caught = self.inner.__enter__()

        def __exit__(self, *exc: object) -> bool:
            done = self.inner.__exit__(*exc)  # type: ignore[arg-type]
            assert self.caught.value.errno == errno
            return bool(done)

    return Refused()


def test_add_refuses_in_netbsds_order() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0")
    other = Bridge(m, "bridge1", 1)
    if0, if1 = m.interfaces.values()
    with refused(ENOENT, "if9 is no interface"):
        br.add("if9")
    with refused(ENOENT, "no interface of this machine"):
        br.add(StageMachine("if0").interfaces["if0"])
    with refused(EEXIST, "member of bridge0 already"):
        br.add(if0)
    with refused(EBUSY, "delete it there first"):
        other.add("if0")
    if1.mtu = 1400
    if1.is_ethernet = False
    if1.flags &= ~IFF.SIMPLEX
    old, if1.if_input = if1.if_input, lambda ifp, mv, cpu: None
    with refused(EINVAL, "something else takes its input"):
        br.add(if1)
    if1.if_input = old
    with refused(EINVAL, "SIMPLEX"):
        br.add(if1)
    if1.flags |= IFF.SIMPLEX
    with refused(EINVAL, "no Ethernet"):
        br.add(if1)
    if1.is_ethernet = True
    with refused(EINVAL, "MTU 1400, bridge0 has 1500"):
        br.add(if1)
    if1.mtu = 1500
    br.add(if1)
    assert br.members == [if1, if0], "the last one added comes first"
    assert IFF.PROMISC in if1.flags
    with refused(EINVAL, "share its MTU"):
        if1.mtu = 1400


def test_252_members_and_no_more() -> None:
    m = StageMachine(*(f"if{i}" for i in range(253)), nmbufs=2048)
    br = m.bridge(*(f"if{i}" for i in range(252)))
    with refused(ENOSPC, "252 members"):
        br.add("if252")
    m.receive(m.interfaces["if0"], frame(B, A))
    assert sum(len(sent) for sent in m.sent.values()) == 251
    br.delete("if7")
    br.add("if252")
    m.receive(m.interfaces["if252"], frame(A, B))
    assert m.sent["if0"] == [frame(A, B)]


def test_delete_leaves_nothing_behind() -> None:
    m = StageMachine("if0", "if1", "if2")
    br = m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()
    m.receive(if0, frame(B, A))
    br.static(if0, C)
    br.delete(if0)
    assert br.addresses() == []
    assert if0.bridge is None
    assert IFF.PROMISC not in if0.flags
    with refused(ENOENT, "no member"):
        br.delete(if0)
    m.receive(if1, frame(A, B))
    assert m.sent["if0"] == []
    m.receive(if1, frame(if0.block.mac, B))  # its own address is no one's any more
    assert m.sent["if2"][-1] == frame(if0.block.mac, B)
    br.add(if0)
    assert br.member(if0).port == 0, "the port is used again"
    m.receive(if2, frame(if0.block.mac, C))
    assert m.drops() == {"no_proto": 1}


def test_two_members_with_one_address() -> None:
    m = StageMachine("if0")
    m.attach("if1", address=m.interfaces["if0"].block.mac)
    br = m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    if1.listen()
    br.delete(if0)
    m.receive(if1, frame(if1.block.mac, A))
    assert if1.recv() == [frame(if1.block.mac, A)]


def test_member_that_is_destroyed_leaves() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    if0.detach()
    assert br.members == [if1]
    assert not if0.is_live


def test_failed_constructor_releases_its_members() -> None:
    m = StageMachine("if0")
    with refused(ENOENT, "if7"):
        m.bridge("if0", "if7")
    assert m.interfaces["if0"].bridge is None
    assert IFF.PROMISC not in m.interfaces["if0"].flags


def test_names_and_limits() -> None:
    m = StageMachine("if0")
    with refused(EINVAL, "not a bridge"):
        Bridge(m, "br0", 0)
    for setting, value in (
        ("maxaddr", 0),
        ("maxaddr", 2**20 + 1),
        ("timeout", -1),
        ("timeout", 2**32),
        ("mtu", 67),
        ("mtu", 1501),
    ):
        with refused(EINVAL, str(value)):
            m.bridge(**{setting: value})
    br = m.bridge("if0")
    assert (br.maxaddr, br.timeout) == (100, 1200)


def test_flags_of_a_member() -> None:
    m = StageMachine("if0", "if1", "if2")
    br = m.bridge("if0", "if1", "if2")
    if0, _, if2 = m.interfaces.values()
    br.learn(if0, False)
    m.receive(if0, frame(B, A))
    assert br.addresses() == []
    br.discover(if2, False)
    m.receive(if0, frame(B, A))
    assert (len(m.sent["if1"]), len(m.sent["if2"])) == (2, 1)
    m.receive(if0, frame(b"\xff" * 6, A))
    assert (len(m.sent["if1"]), len(m.sent["if2"])) == (3, 2), "group frames ignore discover"
    br.discover(if2)
    br.private(if0)
    br.private(if2)
    m.receive(if0, frame(B, A))
    assert (len(m.sent["if1"]), len(m.sent["if2"])) == (4, 2)
    br.static(if2, C)
    m.receive(if0, frame(C, A))
    assert m.drops() == {"protected": 1}
    br.private(if2, False)
    m.receive(if0, frame(C, A))
    assert m.sent["if2"][-1] == frame(C, A)
    for verb in (br.learn, br.discover, br.private, br.stp):
        with refused(ENOENT, "no member"):
            verb("if9")


def test_state_needs_stp_and_a_name() -> None:
    m = StageMachine("if0")
    br = m.bridge("if0")
    with refused(EINVAL, "stp"):
        br.set_state("if0", "blocking")
    br.stp("if0")
    with refused(EINVAL, "none of disabled"):
        br.set_state("if0", "asleep")
    br.set_state("if0", "blocking")
    br.stp("if0", False)
    assert br.member("if0").stp_state == "forwarding"


@pytest.mark.parametrize("text", ["", "02:00", "02:00:00:00:00:0g", "2:0:0:0:0:0:1", "a" * 17])
def test_bad_addresses(text: str) -> None:
    br = StageMachine().bridge()
    with refused(EINVAL, "no Ethernet address"):
        br.deladdr(text)


def test_static_entries() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", maxaddr=3)
    if0, if1 = m.interfaces.values()
    br.static(if1, "02:0:0:0:0:1")
    m.receive(if0, frame(B, A))  # A says it is on if0: it is not believed
    assert br.addresses() == [("02:00:00:00:00:01", 0, "if1", 0, "STATIC")]
    br.static(if0, A)
    assert br.addresses() == [("02:00:00:00:00:01", 0, "if0", 0, "STATIC")]
    with refused(EINVAL, "no station"):
        br.static(if0, b"\xff" * 6)
    with refused(EINVAL, "no station"):
        br.static(if0, b"\0" * 6)
    with refused(EINVAL, "member itself"):
        br.static(if0, if1.mac)
    with refused(ENOENT, "no member"):
        br.static("if9", B)
    br.static(if0, B)
    br.static(if0, C)
    with refused(ENOSPC, "all 3 addresses"):
        br.static(if0, mac(4))
    br.flush()
    assert len(br.addresses()) == 3
    br.deladdr(C)
    with refused(ENOENT, "not in the table"):
        br.deladdr(C)
    with refused(ENOENT, "not in the table"):
        br.deladdr(if0.mac)
    br.flushall()
    assert br.addresses() == []
    m.receive(if0, frame(if1.block.mac, A))
    assert m.drops() == {"no_proto": 1}, "own addresses survive a flush"


def test_table_full_is_counted_and_frames_pass() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", maxaddr=2)
    if0, _ = m.interfaces.values()
    m.receive(if0, [frame(B, mac(i)) for i in range(10, 20)])
    assert len(br.addresses()) == 2
    assert br.counters["table_full"] == 8
    assert len(m.sent["if1"]) == 10


def test_maxaddr_lowered_and_raised() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", maxaddr=10)
    if0, if1 = m.interfaces.values()
    br.static(if1, mac(1))
    for i in range(10, 16):
        m.receive(if0, frame(B, mac(i)))
        m.engine.run(seconds=1)
    br.maxaddr = 4
    kept = [row[0][-2:] for row in br.addresses()]
    assert kept == ["01", "0a", "0b", "0c"], "statics stay, the newest go"
    br.maxaddr = 5000  # needs a larger table
    assert [row[0][-2:] for row in br.addresses()] == kept
    m.receive(if0, [frame(B, mac(i)) for i in range(20, 120)])
    m.receive(if0, [frame(B, mac(i)) for i in range(120, 220)])
    assert len(br.addresses()) == 204
    m.receive(if1, frame(mac(0x0A), mac(0xF0)))
    assert m.sent["if0"] == [frame(mac(0x0A), mac(0xF0))]
    with refused(EINVAL, "maxaddr 0"):
        br.maxaddr = 0


def test_expiry_and_its_refresh_by_traffic() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", timeout=40)
    if0, _ = m.interfaces.values()
    m.receive(if0, [frame(C, A), frame(C, B)])
    m.engine.run(seconds=30)
    assert [row[3] for row in br.addresses()] == [10, 10]
    m.receive(if0, frame(C, B))
    m.engine.run(seconds=12)
    assert [(row[0][-2:], row[3]) for row in br.addresses()] == [("02", 28)]
    assert br.rtable.table.count == 1, "the sweep has been there"
    m.engine.run(seconds=60)
    assert br.addresses() == []


def test_an_entry_older_than_the_age_codes_reach_still_expires_in_time() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", timeout=1200)
    if0, _ = m.interfaces.values()
    m.receive(if0, frame(B, A))
    m.engine.run(seconds=252)  # age codes have come round
    m.receive(if0, frame(B, A))
    m.engine.run(seconds=1000)
    assert [row[3] for row in br.addresses()] == [200]
    m.engine.run(seconds=330)
    assert br.addresses() == []
    assert br.rtable.table.count == 0


def test_timeout_0_never_expires() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1", timeout=0)
    if0, if1 = m.interfaces.values()
    m.receive(if0, frame(B, A))
    m.engine.run(seconds=100_000)
    assert br.addresses() == [("02:00:00:00:00:01", 0, "if0", 0, "")]
    m.receive(if1, frame(A, B))
    assert m.sent["if0"] == [frame(A, B)]
    br.timeout = 10
    m.engine.run(seconds=20)
    assert br.addresses() == []


def test_down_forgets_what_was_learned() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    m.receive(m.interfaces["if0"], frame(B, A))
    br.static("if1", C)
    br.down()
    assert [row[0][-2:] for row in br.addresses()] == ["03"]


def test_interface_that_is_down_neither_sends_nor_receives() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    if0, if1 = m.interfaces.values()
    br.static(if1, B)
    if1.down()
    m.receive(if0, [frame(B, A), frame(C, A)])
    m.receive(if1, frame(A, B))
    assert m.drops() == {"if_down": 2, "no_egress": 1}
    if1.up()
    m.receive(if0, frame(B, A))
    assert m.sent["if1"] == [frame(B, A)]


def test_link_that_goes_down_in_an_interrupt() -> None:
    """The flag counts at once, the port map follows from a thread."""
    m = StageMachine("if0", "if1", "if2")
    m.bridge("if0", "if1", "if2")
    if0, if1, if2 = m.interfaces.values()

    def link_down(_arg: object) -> None:
        if1.flags &= ~IFF.RUNNING

    softint = m.engine.softints.establish("net", link_down, name="link")
    m.engine.softints.schedule_cpu(softint, 0)
    m.engine.run()
    m.receive(if0, frame(B, A))
    assert (len(m.sent["if1"]), len(m.sent["if2"])) == (0, 1)
    assert m.drops() == {}, "the map knows: no copy was made in vain"
    if1.flags |= IFF.RUNNING
    m.receive(if2, frame(A, B))
    m.receive(if0, frame(b"\xff" * 6, A))
    assert (len(m.sent["if1"]), len(m.sent["if2"])) == (1, 2)


def test_destroy_frees_the_members() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    br.destroy()
    assert m.bridges == {}
    assert m.interfaces["if0"].bridge is None
    Bridge(m, "bridge0", 0, ["if0", "if1"])


def test_reprs_say_what_they_are() -> None:
    m = StageMachine("if0", "if1")
    br = m.bridge("if0", "if1")
    assert repr(br) == "<Bridge bridge0 UP,RUNNING: if1 if0, 0 of 100 addresses>"
    assert repr(m.interfaces["if0"]) == (
        "<Ifnet if0 02:00:00:00:80:01 UP,RUNNING member of bridge0, 0 RX / 0 TX queues>"
    )
    assert "port 0" in repr(br.member("if0"))


@pytest.mark.parametrize("mtu", [67, 1501, "1500", True, None])
def test_bad_mtu(mtu: object) -> None:
    m = StageMachine("if0")
    with refused(EINVAL, "MTU"):
        m.interfaces["if0"].mtu = mtu  # type: ignore[assignment]


@pytest.mark.parametrize("address", ["01:00:00:00:00:01", "00:00:00:00:00:00", "zz"])
def test_bad_interface_address(address: str) -> None:
    m = StageMachine()
    with refused(EINVAL, "address"):
        m.attach("if0", address=address)  # type: ignore[arg-type]
