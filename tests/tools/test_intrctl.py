"""intrctl: NetBSD's table, affinity, shielded CPUs."""

import json
from collections.abc import Iterator
from errno import EINVAL, ENOENT

import pytest

from netstack import Machine, NetstackError


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(ncpu=2, seed=2) as machine:
        wm0 = machine.nic("wm0")
        wm0.wire.send([b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00"])
        machine.run()
        yield machine
        machine.audit()


def rows(m: Machine) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(m.command("intrctl list --json"))}


def test_table(m: Machine) -> None:
    assert m.command("intrctl list") == (
        "interrupt id CPU0  CPU1  device name(s)\n"
        "msix0 vec 0     0*    0  wm0 TX0\n"
        "msix0 vec 1     1*    0  wm0 RX0\n"
        "msix0 vec 2     0*    0  wm0 LINK\n"
    )


def test_compact_and_nonzero(m: Machine) -> None:
    assert m.command("intrctl list -c -z") == (
        "interrupt id                total   aff device name(s)\nmsix0 vec 1                     1     0 wm0 RX0\n"
    )
    assert m.command("intrctl list -z").count("\n") == 2


def test_affinity_keeps_counts(m: Machine) -> None:
    m.command("intrctl affinity -i 'wm0 RX0' -c 1")
    m.interfaces["wm0"].wire.send([b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00"])
    m.run()
    row = rows(m)["wm0 RX0"]
    assert (row["counts"], row["affinity"]) == ([1, 1], [1])
    assert "msix0 vec 1     1     1* wm0 RX0" in m.command("intrctl list")
    m.command("intrctl affinity -i 'msix0 vec 1' -c 0")
    assert rows(m)["wm0 RX0"]["affinity"] == [0]


def test_nointr_moves_and_intr_lets_back(m: Machine) -> None:
    m.command("intrctl nointr -c 0")
    assert {tuple(row["affinity"]) for row in rows(m).values()} == {(1,)}  # type: ignore[arg-type]
    m.command("intrctl nointr -c 0")
    with pytest.raises(NetstackError, match="intr") as shielded:
        m.command("intrctl affinity -i 'wm0 RX0' -c 0")
    assert shielded.value.errno == EINVAL
    with pytest.raises(NetstackError) as last:
        m.command("intrctl nointr -c 1")
    assert last.value.errno == ENOENT
    m.command("intrctl intr -c 1")
    m.command("intrctl intr -c 0")
    m.command("intrctl affinity -i 'wm0 RX0' -c 0")
    assert rows(m)["wm0 RX0"]["affinity"] == [0]


@pytest.mark.parametrize(
    ("line", "errno", "text"),
    [
        ("intrctl", EINVAL, "usage: intrctl"),
        ("intrctl frob", EINVAL, "usage: intrctl"),
        ("intrctl list extra", EINVAL, "usage: intrctl"),
        ("intrctl list -q", EINVAL, "usage: intrctl"),
        ("intrctl affinity -c 1", EINVAL, "usage: intrctl"),
        ("intrctl affinity -i 'wm0 RX0'", EINVAL, "usage: intrctl"),
        ("intrctl affinity -i", EINVAL, "usage: intrctl"),
        ("intrctl affinity -i 'wm9 RX0' -c 1", ENOENT, "no such interrupt"),
        ("intrctl affinity -i 'wm0 RX0' -c 2", EINVAL, "no CPU 2; there are 2"),
        ("intrctl affinity -i 'wm0 RX0' -c one", EINVAL, "cpu: invalid value: one"),
        ("intrctl nointr", EINVAL, "usage: intrctl"),
        ("intrctl intr -c 2", EINVAL, "no CPU 2"),
    ],
)
def test_errors(m: Machine, line: str, errno: int, text: str) -> None:
    with pytest.raises(NetstackError, match=text) as refused:
        m.command(line)
    assert refused.value.errno == errno


def test_watching_has_running_totals(m: Machine) -> None:
    wm0 = m.interfaces["wm0"]
    m.engine.at(m.engine.now_ns() + 500_000_000, lambda: wm0.wire.send([b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00"]))
    before = m.engine.now_ns()
    text = m.command("intrctl list -c -z -w 1 -n 3")
    assert [line.split()[3] for line in text.splitlines() if line.startswith("msix0")] == ["1", "2", "2"]
    assert m.engine.now_ns() - before == 2_000_000_000
    assert m.command("intrctl list -w 0") == m.command("intrctl list")
    with pytest.raises(NetstackError, match="seconds: invalid value: -1"):
        m.command("intrctl list -w -1")


def test_table_2_is_set_by_commands_and_seen_in_the_counts() -> None:
    """Paper Table 2, 8 cores: wm0's receive queues on CPUs 4 to 7, wm2's on 0 to 3."""
    with Machine(ncpu=8) as m:
        nics = [m.nic(name, rx_queues=4, tx_queues=4) for name in ("wm0", "wm2")]
        m.bridge("bridge0", members=nics)
        for first, name in ((4, "wm0"), (0, "wm2")):
            for queue in range(4):
                m.command(f"intrctl affinity -i '{name} RX{queue}' -c {first + queue}")
        start = {name: row["counts"] for name, row in rows(m).items()}
        for station in range(64):  # enough flows for RSS to reach every queue
            header = bytes([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, station]) + b"\x08\x00"
            ip = bytes([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, station, 10, 0, 1, 1])
            for nic in nics:
                nic.wire.send([header + ip + bytes(20)])
        m.run()
        for first, name in ((4, "wm0"), (0, "wm2")):
            for queue in range(4):
                row = rows(m)[f"{name} RX{queue}"]
                more = [now - then for now, then in zip(row["counts"], start[row["name"]], strict=True)]  # type: ignore
                assert row["affinity"] == [first + queue]
                assert [cpu for cpu, count in enumerate(more) if count] == [first + queue]
        m.audit()


def test_binding_in_turn_as_freebsd_does() -> None:
    with Machine(ncpu=3) as m:
        m.engine.intrs.is_round_robin = True
        m.nic("wm0", rx_queues=2, tx_queues=2)
        assert [row.affinity for row in m.intrctl.list()] == [(0,), (1,), (2,), (0,), (1,)]
