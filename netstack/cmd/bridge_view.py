"""What ``netstack bridge`` shows: a live table while it runs, counters at the end."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from netstack.cmd.bridge_members import Member
from netstack.net.bridge_ctl import Bridge
from netstack.topology import Machine

__all__ = ["View", "final_tables"]

ADDRESSES_SHOWN = 16


class View:
    """The counters of a bridge and its members, read while it runs or after."""

    def __init__(self, machine: Machine, bridge: Bridge, members: Sequence[Member]) -> None:
        self.machine = machine
        self.bridge = bridge
        self.members = members
        self.started_s = time.monotonic()
        self._before_s = self.started_s
        self._before: dict[str, tuple[int, int]] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def ports(self) -> dict[str, dict[str, Any]]:
        """Return the counters by member name; exact while the machine rests."""
        interfaces = self.machine.stats()["interfaces"]
        return {member.name: self._port(member, interfaces) for member in self.members}

    def _port(self, member: Member, interfaces: dict[str, Any]) -> dict[str, Any]:
        seen = interfaces[member.ifp.name]
        drops = dict(seen["drops"])
        if member.missed:
            drops["rx_missed"] = member.missed
        keys = ("ipackets", "ibytes", "imcasts", "opackets", "obytes", "omcasts")
        return {
            "kind": member.kind,
            "interface": member.ifp.name,
            "state": member.state,
            **{key: seen[key] for key in keys},
            "drops": drops,
            "host_dropped": member.host_dropped,
        }

    def addresses(self) -> list[dict[str, Any]]:
        """Return what the bridge has learned, by member and address."""
        names = {member.ifp.name: member.name for member in self.members}
        learned = [
            {"mac": mac, "vlan": vlan, "port": names[name], "expires_s": left, "flags": flags}
            for mac, vlan, name, left, flags in self.bridge.addresses()
        ]
        return sorted(learned, key=lambda entry: (entry["port"], entry["mac"]))

    def live(self) -> Group:
        """Return the picture of this moment; rates are those since the last picture."""
        now_s = time.monotonic()
        ports = self.ports()
        counts = {name: (port["ipackets"], port["opackets"]) for name, port in ports.items()}
        passed_s = now_s - self._before_s
        if passed_s > 0.1:
            for name, (taken, sent) in counts.items():
                taken_before, sent_before = self._before.get(name, (0, 0))
                self._rates[name] = (
                    (taken - taken_before) / passed_s,
                    (sent - sent_before) / passed_s,
                )
            self._before_s, self._before = now_s, counts
        table = self._port_table(ports, f"{self.bridge.name}: {now_s - self.started_s:.0f} s")
        return Group(table, address_table(self.addresses()))

    def _port_table(self, ports: dict[str, dict[str, Any]], title: str) -> Table:
        table = Table(title=title, title_justify="left")
        table.add_column("port", overflow="fold")
        table.add_column("state")
        for column in ("in", "in/s", "out", "out/s", "dropped"):
            table.add_column(column, justify="right")
        table.add_column("why")
        for name, port in ports.items():
            taken, sent = self._rates.get(name, (0.0, 0.0))
            table.add_row(
                name,
                port["state"],
                f"{port['ipackets']:,}",
                f"{taken:,.0f}",
                f"{port['opackets']:,}",
                f"{sent:,.0f}",
                f"{sum(port['drops'].values()):,}",
                why(port["drops"]),
            )
        return table


def why(drops: dict[str, int]) -> str:
    """Return the reasons of drops, most frequent first."""
    ordered = sorted(drops.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {n:,}" for name, n in ordered)


def address_table(addresses: list[dict[str, Any]]) -> Table:
    """Return learned addresses as a table, cut to what a screen holds."""
    table = Table(title=f"{len(addresses)} addresses", title_justify="left")
    for column in ("address", "port"):
        table.add_column(column)
    table.add_column("expires in", justify="right")
    for entry in addresses[:ADDRESSES_SHOWN]:
        table.add_row(entry["mac"], entry["port"], f"{entry['expires_s']} s")
    if len(addresses) > ADDRESSES_SHOWN:
        table.add_row(f"and {len(addresses) - ADDRESSES_SHOWN:,} more", "", "")
    return table


def final_tables(report: dict[str, Any]) -> Group:
    """Return the end of a run for people."""
    table = Table(title=f"{report['seconds']:.1f} s", title_justify="left")
    table.add_column("port", overflow="fold")
    table.add_column("state")
    for column in ("in", "bytes in", "out", "bytes out", "dropped"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for name, port in report["ports"].items():
        counts = [port[key] for key in ("ipackets", "ibytes", "opackets", "obytes")]
        counts.append(sum(port["drops"].values()))
        table.add_row(name, port["state"], *(f"{n:,}" for n in counts), why(port["drops"]))
    return Group(table, address_table(report["addresses"]))
