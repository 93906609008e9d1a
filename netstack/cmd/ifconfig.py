"""ifconfig(8): show and change interfaces, in NetBSD's words.

``Machine.command("ifconfig -v wm0")`` calls ``run``.  With ``-v`` come the counters and every way
in which frames were lost, with what it means.
"""

from __future__ import annotations

import json
from errno import EINVAL, ENXIO
from typing import TYPE_CHECKING, Any

import click

from netstack._fast.dispositions import HELP
from netstack.cmd.control import IFFBITS, flags_text, number, refuse, usage
from netstack.errors import NetstackError, NoSuchInterfaceError
from netstack.net.bridge_ctl import NAME, Bridge
from netstack.net.ifnet import IFF, Ifnet
from netstack.params import IF_MTU_MAX

if TYPE_CHECKING:
    from netstack.topology import Machine

__all__ = ["command", "describe", "run"]

USAGE = "ifconfig [-alv] [--json] [interface [up | down | mtu N | create | destroy] ...]"

HELP_OF = {name: text for name, text in HELP.values()}


def run(machine: Machine, argv: list[str]) -> str:
    """Execute one command line and return its output.

    Args:   argv -- without the command's name; ``-l`` lists names, ``-v`` adds counters and drops.
    Raises: NetstackError -- EINVAL, a wrong line or value; ENXIO, no such interface.
    """
    options = {word for word in argv if word.startswith("-")}
    words = [word for word in argv if not word.startswith("-")]
    if options - {"-a", "-l", "-v", "--json"} or ("-a" in options and words):
        raise usage(USAGE)
    everything: list[Ifnet | Bridge] = [*machine.interfaces.values(), *machine.bridges.values()]
    if "-l" in options:
        return " ".join(each.name for each in everything) + "\n"
    if len(words) > 1:
        execute(machine, words)
        return ""
    shown = [find(machine, words[0])] if words else everything
    if "--json" in options:
        rows = [describe(each) for each in shown]
        return json.dumps(rows[0] if words else rows)
    return "".join(status(each, "-v" in options) for each in shown)


def find(machine: Machine, name: str) -> Ifnet | Bridge:
    """Return an interface or bridge by name.  Raises: NoSuchInterfaceError(ENXIO)."""
    found = machine.interfaces.get(name) or machine.bridges.get(name)
    if found is None:
        known = " ".join([*machine.interfaces, *machine.bridges]) or "none"
        raise NoSuchInterfaceError(ENXIO, f"{name}: no such interface (there are: {known})")
    return found


def execute(machine: Machine, words: list[str]) -> None:
    """Apply the verbs of a command line, in order, to the interface it names first."""
    name, *verbs = words
    while verbs:
        verb = verbs.pop(0)
        if verb == "create":
            create(machine, name)
            continue
        target = find(machine, name)
        if verb == "up":
            target.up()
        elif verb == "down":
            target.down()
        elif verb == "mtu":
            if not verbs:
                raise NetstackError(EINVAL, "mtu requires 1 argument")
            set_mtu(target, verbs.pop(0))
        elif verb == "destroy":
            destroy(target)
        else:
            raise NetstackError(EINVAL, f"{verb}: bad value")


def create(machine: Machine, name: str) -> None:
    """``ifconfig bridge0 create``: the only kind that is made here."""
    if not NAME.fullmatch(name):
        text = f"{name}: only bridges are created here; m.nic({name!r}) makes an interface"
        raise NetstackError(EINVAL, text)
    machine.bridge(name)


def destroy(target: Ifnet | Bridge) -> None:
    """``ifconfig bridge0 destroy``: its members stay, in no bridge."""
    if not isinstance(target, Bridge):
        raise NetstackError(EINVAL, f"{target.name}: only bridges are destroyed here")
    target.destroy()


def set_mtu(target: Ifnet | Bridge, word: str) -> None:
    """``ifconfig wm0 mtu 1400``"""
    value = number(word, "mtu", 2**31 - 1)
    if isinstance(target, Bridge):
        text = f"{target.name}: the MTU of a bridge is set when it is made (68..{IF_MTU_MAX})"
        raise NetstackError(EINVAL, text)
    target.mtu = value


def status(target: Ifnet | Bridge, is_verbose: bool) -> str:
    """Return what ``ifconfig wm0`` prints."""
    if isinstance(target, Bridge):
        flags = IFF.UP | IFF.RUNNING if target.is_running else IFF(0)
        lines = [f"{target.name}: {flags_text(flags, IFFBITS)} mtu {target.mtu}"]
        if is_verbose:
            counted = ", ".join(f"{n} {name}" for name, n in target.counters.items())
            lines.append(f"\tbridge: {counted}")
        return "\n".join(lines) + "\n"
    lines = [f"{target.name}: {flags_text(target.flags, IFFBITS)} mtu {target.mtu}"]
    lines.append(f"\taddress: {target.mac}")
    lines.append(f"\tstatus: {'active' if target.is_live else 'no carrier'}")
    if is_verbose:
        lines += counter_lines(target)
    return "\n".join(lines) + "\n"


def counter_lines(ifp: Ifnet) -> list[str]:
    """Return input, output, local and loss counters, a line each."""
    counted = ifp.counters
    lines = []
    for direction, key in (("input", "i"), ("output", "o")):
        packets, octets = counted[f"{key}packets"], counted[f"{key}bytes"]
        group = counted[f"{key}mcasts"]
        lines.append(f"\t{direction}: {packets} packets, {octets} bytes, {group} multicasts")
    lines.append(f"\tlocal: {counted['delivered']} delivered, {counted['originated']} originated")
    for name, lost in ifp.block.drops().items():
        lines.append(f"\tdropped: {lost} {name} ({HELP_OF[name]})")
    if ifp.recv_overflow:
        lines.append(f"\tdropped: {ifp.recv_overflow} recv_overflow (delivered, but not fetched)")
    return lines


def describe(target: Ifnet | Bridge) -> dict[str, Any]:
    """Return an interface as one JSON object."""
    if isinstance(target, Bridge):
        return {
            "interface": target.name,
            "type": "bridge",
            "flags": ["UP", "RUNNING"] if target.is_running else [],
            "mtu": target.mtu,
            "counters": target.counters,
        }
    return {
        "interface": target.name,
        "type": "ethernet",
        "flags": [name for bit, name in IFFBITS if target.flags & bit],
        "mtu": target.mtu,
        "address": target.mac,
        "bridge": target.bridge.name if target.bridge is not None else None,
        "rx_queues": len(target.rx_queues),
        "tx_queues": len(target.tx_queues),
        "counters": target.block.counters(),
        "drops": target.block.drops(),
        "recv_overflow": target.recv_overflow,
    }


@click.command("ifconfig", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Show and change interfaces of a machine: [-alv] [--json] [IF [up | down | mtu N] ...].

    -l lists names, -v adds counters and every reason for which frames were lost.  Bridges also take
    create and destroy.

    In Python: m.command("ifconfig -v wm0").
    """
    refuse("ifconfig", words)
