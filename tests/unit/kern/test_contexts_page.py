"""``docs/contexts.md`` says what the code says: the table, the rules, the lock order."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netstack.kern.context import table_text
from netstack.kern.lockdebug import RULES

PAGE = Path(__file__).parents[3] / "docs" / "contexts.md"


def between(name: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*)\n<!-- /{name} -->", text, re.DOTALL)
    assert found is not None, f"{PAGE.name}: no section between the marks '{name}'"
    return found[1]


def drawn() -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the solid and the dotted arrows of the drawing, by full names."""
    block = re.search(r"```mermaid\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    names: dict[str, str] = {}
    solid, dotted = set(), set()
    for line in block[1].splitlines()[1:]:
        one, arrow, two = re.split(r" (-->|-\.->) ", line.strip())
        ends = []
        for end in (one, two):
            short, _, label = end.partition("[")
            if label:
                names[short] = label.rstrip("]")
            ends.append(names.get(short, short))
        (solid if arrow == "-->" else dotted).add((ends[0], ends[1]))
    return solid, dotted


def closure(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    ways = set(edges)
    while True:
        longer = {(a, d) for a, b in ways for c, d in ways if b == c} - ways
        if not longer:
            return ways
        ways |= longer


def frame(to: int, by: int) -> bytes:
    return bytes.fromhex(f"0200000000{to:02x}0200000000{by:02x}0800") + bytes(50)


def drive(m: Any) -> set[tuple[str, str]]:
    """Use all of the stack that takes locks; return the order seen."""
    wm0, wm1, wm2 = (m.nic(f"wm{i}", rx_queues=2, tx_queues=2) for i in range(3))
    br = m.bridge("bridge0", members=[wm0, wm1], timeout=20)
    for station in range(4):
        wm0.wire.send([frame(to, station + 1) for to in range(3)])
        wm1.wire.send(frame(1, 9))
        m.run()
    br.add(wm2)
    br.static(wm0, "02:00:00:00:00:99")
    br.flush()
    br.flushall()
    m.command("brconfig bridge0")
    m.intrctl.affinity(m.intrctl.list()[0].name, cpu=1)
    if m.clock == "virtual":
        wm0.wire.send(frame(2, 1))
        m.run(seconds=60)
    br.delete(wm1)
    m.destroy(wm2)
    m.run()
    assert m.stats()["lockdebug"]["findings"] == 0
    return {(edge.before, edge.after) for edge in m.engine.lockdebug.graph().edges()}


def test_the_table_is_that_of_the_code() -> None:
    assert between("table") == table_text(), "docs/contexts.md: paste netstack.kern.context.table_text()"


def test_the_rules_are_those_of_the_code() -> None:
    rows = [f"| {rule} | {text} |" for rule, text in RULES.items()]
    assert between("rules").splitlines()[2:] == rows


def test_the_drawn_order_has_no_circle() -> None:
    solid, dotted = drawn()
    assert not [pair for pair in closure(solid | dotted) if pair[0] == pair[1]]
    assert len(solid) >= 6 and not solid & dotted


def test_the_order_that_is_drawn_is_the_order_that_is_seen(machine: Callable[..., Any]) -> None:
    seen: set[tuple[str, str]] = set()
    for clock, kernel in (("virtual", "NET_MPSAFE"), ("virtual", "GENERIC"), ("wall", "GENERIC")):
        m = machine(ncpu=2, clock=clock, kernel=kernel, path="stages", lockdebug=True)
        seen |= drive(m)
        m.close()
    solid, _ = drawn()
    assert seen - closure(solid) == set(), "orders that docs/contexts.md does not draw"
    assert solid - seen == set(), "arrows that nobody has seen: draw them dotted, and say why"


def test_a_turned_arrow_would_be_found() -> None:
    solid, _ = drawn()
    turned = solid - {("ifnet", "bridge rtable")} | {("bridge rtable", "ifnet")}
    assert ("ifnet", "bridge rtable") not in closure(turned)
