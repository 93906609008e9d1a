"""brconfig(8): show and change bridges, in NetBSD's words.

``Machine.command("brconfig bridge0 add wm0 up")`` calls ``run``.  Verbs are executed in order; the
first that fails ends the line, what came before it stays done; ``up`` and ``down`` come last.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from errno import EINVAL, ENXIO, EOPNOTSUPP
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from netstack.cmd.control import IFFBITS, Bits, flags_text, number, refuse, usage
from netstack.errors import NetstackError, NoSuchInterfaceError
from netstack.net.bridge_ctl import NAME, Bridge
from netstack.net.bridge_member import IFBIF, STATES
from netstack.net.ifnet import IFF

if TYPE_CHECKING:
    from netstack.topology import Machine

__all__ = ["command", "describe", "run"]

USAGE = "brconfig -a | brconfig [--json] bridge [verb [argument ...] ...]"

IFBIFBITS: Bits = ((0x1, "LEARNING"), (0x2, "DISCOVER"), (0x4, "STP"), (0x8, "PROTECTED"))
IFBAFBITS: Bits = ((0x1, "STATIC"),)
UINT32_MAX = 2**32 - 1

# Spanning tree settings as brconfig shows them; 802.1D's defaults.
PRIORITY, HELLOTIME_S, FWDDELAY_S, MAXAGE_S = 32768, 2, 15, 20


class Verb(NamedTuple):
    """A word of the command line: how many arguments it takes and what it does."""

    argument_count: int
    apply: Callable[[Bridge, list[str]], str | None]


def run(machine: Machine, argv: list[str]) -> str:
    """Execute one command line and return its output.

    Args:   argv -- without the command's name: a bridge's name, then verbs; or ``-a``.
    Raises: NetstackError -- EINVAL, a wrong line; ENXIO, no such bridge; ENOENT, no such interface;
            and what the verb's method of ``Bridge`` raises.
    """
    as_json = "--json" in argv
    words = [word for word in argv if word != "--json"]
    if words == ["-a"]:
        bridges = list(machine.bridges.values())
        if as_json:
            return json.dumps([describe(br) for br in bridges])
        return "".join(status(br) for br in bridges)
    if not words or words[0].startswith("-"):
        raise usage(USAGE)
    br = find(machine, words.pop(0))
    if not words:
        return json.dumps(describe(br)) if as_json else status(br)
    return execute(br, words)


def find(machine: Machine, name: str) -> Bridge:
    """Return a bridge by name.  Raises: NetstackError: EINVAL (no name of a bridge), ENXIO."""
    if not NAME.fullmatch(name):
        raise NetstackError(EINVAL, f"{name} is not a bridge")
    if name not in machine.bridges:
        known = " ".join(machine.bridges) or "none"
        text = f"{name}: no such bridge (there are: {known}); ifconfig {name} create makes it"
        raise NoSuchInterfaceError(ENXIO, text)
    return machine.bridges[name]


def execute(br: Bridge, words: list[str]) -> str:
    """Apply verbs in order; return what they print."""
    printed = []
    final: Callable[[], None] | None = None
    rest = list(words)
    while rest:
        name = rest.pop(0)
        if name in ("up", "down"):
            final = br.up if name == "up" else br.down
            continue
        verb = VERBS.get(name)
        if verb is None:
            raise NetstackError(EINVAL, f"unknown command: {name}")
        count = verb.argument_count
        if len(rest) < count:
            plural = "" if count == 1 else "s"
            raise NetstackError(EINVAL, f"command {name} requires {count} argument{plural}")
        printed.append(verb.apply(br, rest[:count]) or "")
        del rest[:count]
    if final is not None:
        final()
    return "".join(printed)


def status(br: Bridge) -> str:
    """Return what ``brconfig bridge0`` prints (NetBSD's text)."""
    flags = IFF.UP | IFF.RUNNING if br.is_running else IFF(0)
    lines = [f"{br.name}: {flags_text(flags, IFFBITS)}", "\tConfiguration:"]
    times = f"hellotime {HELLOTIME_S} fwddelay {FWDDELAY_S} maxage {MAXAGE_S}"
    lines += [f"\t\tpriority {PRIORITY} {times}", "\tInterfaces:"]
    for ifp in br.members:
        member = br.member(ifp)
        lines.append(f"\t\t{ifp.name} {flags_text(member.flags, IFBIFBITS)}")
        text = f"port {ifp.index % 256} priority {member.priority}"
        if IFBIF.STP in member.flags:
            text += f" path cost {member.path_cost} {member.state}"
        lines.append(f"\t\t\t{text}")
    lines.append(f"\tAddress cache (max cache: {br.maxaddr}, timeout: {br.timeout}):")
    return "\n".join(lines) + "\n" + addresses(br, "\t\t")


def addresses(br: Bridge, prefix: str = "") -> str:
    """Return the address table, one line per entry."""
    lines = []
    for mac, _vlan, name, remaining_s, flags in br.addresses():
        shown = flags_text(1 if flags == "STATIC" else 0, IFBAFBITS)
        lines.append(f"{prefix}{mac} {name} {remaining_s} {shown}\n")
    return "".join(lines)


def describe(br: Bridge) -> dict[str, Any]:
    """Return what ``status`` prints as one JSON object."""
    members = []
    for ifp in br.members:
        member = br.member(ifp)
        members.append(
            {
                "interface": ifp.name,
                "flags": [name for bit, name in IFBIFBITS if member.flags & bit],
                "port": ifp.index % 256,
                "priority": member.priority,
                "path_cost": member.path_cost,
                "state": member.stp_state,
                "state_number": STATES.index(member.stp_state),
            }
        )
    keys = ("mac", "vlan", "interface", "remaining_s", "flags")
    return {
        "bridge": br.name,
        "running": br.is_running,
        "priority": PRIORITY,
        "members": members,
        "maxaddr": br.maxaddr,
        "timeout_s": br.timeout,
        "addresses": [dict(zip(keys, row, strict=True)) for row in br.addresses()],
        "counters": br.counters,
    }


def set_maxaddr(br: Bridge, words: list[str]) -> None:
    """``maxaddr N``"""
    br.maxaddr = number(words[0], "maxaddr", UINT32_MAX)


def set_timeout(br: Bridge, words: list[str]) -> None:
    """``timeout S``"""
    br.timeout = number(words[0], "timeout", UINT32_MAX)


def no_engine(name: str) -> Callable[[Bridge, list[str]], str | None]:
    """Return the verb for a spanning tree setting, which is refused."""

    def refuse_verb(br: Bridge, _words: list[str]) -> str | None:
        text = f"{br.name}: {name}: the spanning tree protocol engine is not in this version"
        raise NetstackError(EOPNOTSUPP, text)

    return refuse_verb


def switch(method: Callable[..., None], on: bool) -> Verb:
    """Return the verb that turns a member's flag on or off."""
    return Verb(1, lambda br, words: method(br, words[0], on))


DELETE = Verb(1, lambda br, words: br.delete(words[0]))

VERBS: dict[str, Verb] = {
    "add": Verb(1, lambda br, words: br.add(words[0])),
    "delete": DELETE,
    "del": DELETE,
    "addr": Verb(0, lambda br, words: addresses(br)),
    "maxaddr": Verb(1, set_maxaddr),
    "timeout": Verb(1, set_timeout),
    "static": Verb(2, lambda br, words: br.static(words[0], words[1])),
    "deladdr": Verb(1, lambda br, words: br.deladdr(words[0])),
    "flush": Verb(0, lambda br, words: br.flush()),
    "flushall": Verb(0, lambda br, words: br.flushall()),
    "learn": switch(Bridge.learn, True),
    "-learn": switch(Bridge.learn, False),
    "discover": switch(Bridge.discover, True),
    "-discover": switch(Bridge.discover, False),
    "stp": switch(Bridge.stp, True),
    "-stp": switch(Bridge.stp, False),
    "private": switch(Bridge.private, True),
    "-private": switch(Bridge.private, False),
    "protect": switch(Bridge.private, True),
    "-protect": switch(Bridge.private, False),
    "priority": Verb(1, no_engine("priority")),
    "hellotime": Verb(1, no_engine("hellotime")),
    "fwddelay": Verb(1, no_engine("fwddelay")),
    "maxage": Verb(1, no_engine("maxage")),
    "ifpriority": Verb(2, no_engine("ifpriority")),
    "ifpathcost": Verb(2, no_engine("ifpathcost")),
}


@click.command("brconfig", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Show and change the bridges of a machine: -a | BRIDGE [VERB [ARGUMENT ...] ...] [--json].

    Verbs: add delete IF, addr, maxaddr N, timeout S, static IF MAC, deladdr MAC, flush, flushall,
    [-]learn [-]discover [-]stp [-]private IF, up, down.  No verb: status.

    In Python: m.command("brconfig bridge0 add wm0 static wm0 02:00:00:00:00:09").
    """
    refuse("brconfig", words)
