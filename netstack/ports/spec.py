"""How a command line names a port.

    veth0                   an interface of the host (also ``packet:veth0``)
    xdp:veth0               the same through AF_XDP: faster, without offloads of the hosts behind it
    tap:tap0                a TAP interface, made if there is none
    pcap:in.pcap            a capture file that exists: its frames come in
    pcap:out.pcapng         a file that does not exist: what goes out is written to it
    pcap:in.pcap,out.pcapng both; ``pcap:,out.pcapng`` only out, whether the file exists or not

A file that is read is never written.  A path with a comma cannot be named.
"""

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netstack.errors import NetstackError
from netstack.ports.hostif import check_name

__all__ = ["PortSpec", "parse", "parse_all"]

KINDS = ("packet", "xdp", "tap", "pcap")


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One port: a host interface by name, or a file to read, one to write, or both."""

    kind: str  # of KINDS
    name: str  # as reports call it
    source: Path | None = None
    sink: Path | None = None


def parse(text: str) -> PortSpec:
    """Return what ``text`` names; files are looked at, interfaces are not.

    Raises: NetstackError(EINVAL) -- not understood, or a name no interface can have;
            NetstackError(ENOENT) -- an input that is no file.
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        return PortSpec("packet", check_name(text))
    if kind not in KINDS:
        raise NetstackError(
            errno.EINVAL,
            f"{text}: no kind of port is called {kind!r}; write NAME, xdp:NAME, tap:NAME or pcap:FILE",
        )
    if kind != "pcap":
        return PortSpec(kind, check_name(rest))
    return parse_files(text, rest)


def parse_files(text: str, rest: str) -> PortSpec:
    """Return the port of a ``pcap:`` text."""
    first, comma, second = rest.partition(",")
    if not (first or second) or "," in second or "\0" in rest:
        raise NetstackError(errno.EINVAL, f"{text}: write pcap:IN, pcap:OUT or pcap:IN,OUT")
    source = Path(first) if first else None
    sink = Path(second) if second else None
    if source is not None and not source.exists():
        if comma:
            raise NetstackError(errno.ENOENT, f"{text}: there is no file {source} to read")
        source, sink = None, source
    return PortSpec("pcap", text, source, sink)


def parse_all(texts: Iterable[str]) -> list[PortSpec]:
    """Return what each text names, after a look at all of them together.

    Raises: NetstackError(EEXIST) -- a port named twice, or one file written twice;
            NetstackError(EINVAL) -- a file both read and written; and as ``parse``.
    """
    specs = [parse(text) for text in texts]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise NetstackError(errno.EEXIST, f"{name}: named twice; a port is on a bridge once")
    sources = [spec.source.resolve() for spec in specs if spec.source is not None]
    sinks = [spec.sink.resolve() for spec in specs if spec.sink is not None]
    for sink in sinks:
        if any(is_same(sink, source) for source in sources):
            raise NetstackError(errno.EINVAL, f"{sink}: read and written; write to another file")
        if sinks.count(sink) > 1:
            raise NetstackError(errno.EEXIST, f"{sink}: two ports would write it; choose two files")
    return specs


def is_same(sink: Path, source: Path) -> bool:
    """Say whether both paths are one file, also by a hard link."""
    return sink == source or (sink.exists() and sink.samefile(source))
