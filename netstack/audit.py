"""Accounts of a machine: what it counts, and whether every frame and mbuf is somewhere.

Identities, exact while no CPU runs:

  mbufs   pool = free + in receive rings + in transmit rings + in if_snd + on punt rings + on forwarding queues
          (a queue that holds copies, of a device with memory of its own, holds no mbufs)
  frames  in + originated + copied = out + delivered + dropped (by reason) + held
  wires   put on the cable + generated = received + oversize + resting; received = in + not yet taken
          sent by the NIC = out + not yet taken back; sent = on the far end's cable + counted + lost

Context: control threads; the machine at rest.
"""

from collections import Counter
from errno import EINVAL
from typing import TYPE_CHECKING, Any

from netstack.errors import NetstackError

if TYPE_CHECKING:
    from netstack.net.ifnet import Ifnet
    from netstack.topology import Machine

__all__ = ["audit", "stats"]


def audit(machine: "Machine") -> dict[str, dict[str, int]]:
    """Check all identities; see the module's head.

    Raises: NetstackError(EINVAL) with both sides of the first that does not hold.
    """
    report = {"mbufs": _mbufs(machine), "frames": _frames(machine)}
    for ifp in machine.all_interfaces:
        if ifp.hw is not None:
            report[f"{ifp.name} rx"] = _wire_rx(ifp)
            report[f"{ifp.name} tx"] = _wire_tx(ifp)
    for name, sides in report.items():
        if sides["left"] != sides["right"]:
            parts = ", ".join(f"{what} {n}" for what, n in sides.items())
            raise NetstackError(EINVAL, f"audit: {name} do not add up: {parts}")
    return report


def _queued(machine: "Machine", *, copies: bool = True) -> dict[str, int]:
    """Frames that are under way inside the machine; those in mbufs only, without ``copies``."""
    tx_queues = [
        q for ifp in machine.all_interfaces for q in ifp.tx_queues if copies or not getattr(q, "is_copy", False)
    ]
    blocks = [cpu.block for cpu in machine.engine.cpus]
    return {
        "if_snd": sum(q.snd_len for q in tx_queues),
        "tx_rings": sum(q.in_ring for q in tx_queues),
        "punt_rings": sum(block.punt_len for block in blocks),
        "forwarding_queues": sum(block.fwdq_len for block in blocks),
    }


def _mbufs(machine: "Machine") -> dict[str, int]:
    held = _queued(machine, copies=False)
    held["rx_rings"] = sum(q.held for ifp in machine.all_interfaces for q in ifp.rx_queues)
    free = machine.pool.free_count
    return {"left": machine.pool.nmbufs, "right": free + sum(held.values()), "free": free, **held}


def _frames(machine: "Machine") -> dict[str, int]:
    total: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for ifp in machine.all_interfaces:
        total.update(ifp.block.counters())
        dropped.update(ifp.block.drops())
    held = sum(_queued(machine).values())
    made = total["ipackets"] + total["originated"] + total["copies"]
    gone = total["opackets"] + total["delivered"] + sum(dropped.values()) + held
    parts = {name: total[name] for name in ("ipackets", "originated", "copies", "opackets", "delivered")}
    return {"left": made, "right": gone, **parts, "dropped": sum(dropped.values()), "held": held}


def _wire_rx(ifp: "Ifnet") -> dict[str, int]:
    engines = ifp.hw.rx_engines
    offered = sum(hw.cable.passed + hw.generated for hw in engines)
    waiting = sum(hw.oversize + hw.resting for hw in engines)
    ready = sum(q.ready for q in ifp.rx_queues)
    taken = ifp.block.counters()["ipackets"]
    return {"left": offered, "right": taken + ready + waiting, "taken": taken, "ready": ready, "waiting": waiting}


def _wire_tx(ifp: "Ifnet") -> dict[str, int]:
    port = ifp.hw.tx_port
    sent = sum(hw.frames for hw in ifp.hw.tx_engines)
    arrived = port.cable.passed + port.lost + sum(hw.counted for hw in ifp.hw.tx_engines)
    unclaimed = sum(q.in_ring for q in ifp.tx_queues) - sum(hw.pending for hw in ifp.hw.tx_engines)
    out = ifp.block.counters()["opackets"]
    # both ends against what the engines sent, in one identity: equal only when each is
    return {
        "left": 2 * sent,
        "right": arrived + out + unclaimed,
        "sent": sent,
        "arrived": arrived,
        "opackets": out,
        "unclaimed": unclaimed,
    }


def stats(machine: "Machine") -> dict[str, Any]:
    """Return all counters of a machine; see ``Machine.stats``."""
    debug = machine.engine.lockdebug
    return {
        "interfaces": {ifp.name: _interface(ifp) for ifp in machine.interfaces.values()},
        "bridges": {name: br.block.counters() for name, br in machine.bridges.items()},
        "cpus": [cpu.block.counters for cpu in machine.engine.cpus],
        "interrupts": {row.name: list(row.counts) for row in machine.intrctl.list()},
        "mbufs": {
            "total": machine.pool.nmbufs,
            "free": machine.pool.free_count,
            "failures": machine.pool.failures,
        },
        "pserialize": {"performs": machine.engine.psz.performs},
        **({} if debug is None else {"lockdebug": debug.stats()}),
    }


def _interface(ifp: "Ifnet") -> dict[str, Any]:
    counted: dict[str, Any] = dict(ifp.block.counters())
    drops = dict(ifp.block.drops())
    if ifp.hw is not None:
        engines = ifp.hw.rx_engines
        for name, n in (
            ("rx_missed", sum(hw.missed for hw in engines)),
            ("giant", sum(hw.oversize for hw in engines)),
            ("wire_full", ifp.hw.tx_port.lost),
            ("stopped", ifp.hw.turned_away),
        ):
            if n:
                drops[name] = drops.get(name, 0) + n
    missed = getattr(ifp.driver, "missed", 0)  # of a real port: the kernel had no room for it
    if missed:
        drops["rx_missed"] = drops.get("rx_missed", 0) + missed
    counted["drops"] = drops
    counted["rx_queues"] = [{"frames": q.frames, "activations": q.activations} for q in ifp.rx_queues]
    counted["tx_queues"] = [
        {"snd_len": q.snd_len, "handovers": q.handovers, "contended": q.lock_contended}
        for q in ifp.tx_queues
    ]
    return counted
