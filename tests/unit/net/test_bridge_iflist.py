"""Removal of a member in the paper's order: unlink, readers, references, free (§3.2.2)."""

import pytest
from unit.net.stages import StageMachine, frame, mac

from netstack import NetstackError
from netstack.net import bridge_iflist
from netstack.net.bridge_ctl import Bridge

A, B, C = mac(1), mac(2), mac(3)
STEPS = (
    "release_input",
    "remove_from_list",
    "wait_for_readers",
    "remove_addresses",
    "wait_for_references",
    "free_member",
)


@pytest.mark.parametrize("way", [("hash", "generation"), ("hash", "direct"), ("chained", "paper")], ids="-".join)
def test_each_step_finds_what_the_one_before_has_left(monkeypatch: pytest.MonkeyPatch, way: tuple[str, str]) -> None:
    m = StageMachine("if0", "if1", "if2")
    br = Bridge(m, "bridge0", 0, m.interfaces, table=way[0], flush=way[1])
    if0 = m.interfaces["if0"]
    m.receive(if0, [frame(C, A), frame(C, B)])
    br.static(if0, C)
    member, psz, rtable = br.member(if0), m.engine.psz, br.rtable
    state: list[tuple[str, bool, bool, int, bool, bool]] = []
    performs = psz.performs

    def entries() -> int:
        """What a reader could find of the member, with the map that is published."""
        numbers = {member.port, member.tag}
        return sum(entry[1] in numbers for entry in rtable.table.entries())

    def note(step: str) -> None:
        listed = member in br.iflist
        waited = psz.performs > performs and if0.bridge is None and not listed
        held = br.lock.is_held
        reserved = rtable.removal.numbers.members[member.port] is member
        state.append((step, listed, waited, entries(), held, reserved))

    for step in STEPS:
        honest = getattr(bridge_iflist, step)

        def call(*args: object, step: str = step, honest: object = honest) -> None:
            nonlocal performs
            if step == "wait_for_readers":
                performs = psz.performs
            note(step)
            honest(*args)  # type: ignore[operator]

        monkeypatch.setattr(bridge_iflist, step, call)
    br.delete(if0)
    note("returned")
    #                         listed waited entries locked number kept
    assert state == [
        ("release_input", True, False, 4, True, True),
        ("remove_from_list", True, False, 4, True, True),
        ("wait_for_readers", False, False, 4, True, True),
        ("remove_addresses", False, True, 4, True, True),
        ("wait_for_references", False, True, 0, False, True),
        ("free_member", False, True, 0, True, True),
        ("returned", False, True, 0, False, False),
    ]


@pytest.mark.parametrize(
    "way", [("hash", "generation"), ("hash", "direct"), ("hash", "paper"), ("chained", "paper")], ids="-".join
)
def test_what_the_last_reader_of_the_old_map_learns_goes_too(
    monkeypatch: pytest.MonkeyPatch, way: tuple[str, str]
) -> None:
    """A CPU inside its section learns from the member until the grace period is over."""
    m = StageMachine("if0", "if1")
    br = Bridge(m, "bridge0", 0, m.interfaces, table=way[0], flush=way[1])
    member, table = br.member("if0"), br.rtable.table
    honest, perform, learned = bridge_iflist.wait_for_readers, m.engine.pserialize.perform, []

    def last_reader(timeout_s: float = 10.0) -> None:
        learned.append(table.learn(A, member.tag, 0))
        perform(timeout_s)

    def wait_for_readers(br: Bridge) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(m.engine.pserialize, "perform", last_reader)
            honest(br)

    monkeypatch.setattr(bridge_iflist, "wait_for_readers", wait_for_readers)
    br.delete("if0")
    assert learned == ["new"]
    assert table.lookup(A) is None and table.count == 0
    br.add("if0")
    assert br.addresses() == [], "the numbers of the next member are clean"


def test_numbers_are_reserved_until_the_last_reference_is_gone() -> None:
    m = StageMachine("if0", "if1", ncpu=2)
    br = m.bridge("if0", "if1")
    if0, _ = m.interfaces.values()
    br.static(if0, C)
    old = br.member(if0)
    psref = old.target.acquire()

    def operator() -> None:
        br.delete(if0)

    def other() -> None:
        m.engine.wait_until(lambda: br.leaving, "the member to leave")
        with pytest.raises(NetstackError, match="no member"):
            br.delete(if0)
        br.add(if0)
        assert not {br.member(if0).port, br.member(if0).tag} & {old.port, old.tag}
        br.static(if0, B)

    m.engine.spawn(operator, cpu=0)
    m.engine.spawn(other, cpu=1)
    m.engine.at(m.engine.now_ns() + 1_000_000, psref.release)
    m.engine.run()
    assert br.leaving == []
    assert [row[:3] for row in br.addresses()] == [("02:00:00:00:00:02", 0, "if0")]
    m.receive(m.interfaces["if1"], frame(B, A))
    assert m.sent["if0"] == [frame(B, A)]
