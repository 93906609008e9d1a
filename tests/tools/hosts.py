"""Hosts at the far ends of wires: just enough ARP, ND and echo to ping, as bytes.

No checksums are computed or looked at: a bridge does neither.
"""

from __future__ import annotations

from netstack.net.ifnet import Ifnet

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
REQUEST, REPLY = b"\x00\x01", b"\x00\x02"
ECHO = {4: (b"\x08", b"\x00"), 6: (b"\x80", b"\x81")}  # ICMP types: request, reply
SOLICIT = {6: (b"\x87", b"\x88")}


def ethernet(dst: bytes, src: bytes, ethertype: int, payload: bytes) -> bytes:
    """Return a frame as a NIC would send it, padded."""
    return (dst + src + ethertype.to_bytes(2, "big") + payload).ljust(60, b"\0")


class Host:
    """A station with an address of IP version 4 or 6 behind an interface's wire."""

    def __init__(self, ifp: Ifnet, number: int, version: int, mac: bytes | None = None) -> None:
        self.ifp = ifp
        self.version = version
        self.mac = mac or b"\x0a\x00\x5e\x00\x00" + bytes([number])
        prefix = bytes([10, 0, 0]) if version == 4 else b"\xfe\x80" + bytes(13)
        self.ip = prefix + bytes([number])

    def resolve(self, ip: bytes) -> bytes:
        """Return the question for the station of an address: ARP, or a neighbour solicitation."""
        if self.version == 4:
            body = REQUEST + self.mac + self.ip + bytes(6) + ip
            return ethernet(b"\xff" * 6, self.mac, ARP, b"\x00\x01\x08\x00\x06\x04" + body)
        dst = b"\x33\x33\xff" + ip[-3:]
        return ethernet(dst, self.mac, IPV6, self.ip + ip + SOLICIT[6][0])

    def answer(self) -> None:
        """Answer what came out of the wire."""
        for frame in self.ifp.wire.recv():
            for answer in (answer_arp(self, frame), answer_echo(self, frame)):
                if answer is not None:
                    self.ifp.wire.send(answer)


def echo_request(source: Host, target: Host) -> bytes:
    """Return a ping."""
    ethertype = IPV4 if source.version == 4 else IPV6
    payload = source.ip + target.ip + ECHO[source.version][0] + b"ping"
    return ethernet(target.mac, source.mac, ethertype, payload)


def answer_arp(host: Host, frame: bytes) -> bytes | None:
    """Return the answer to a question for the host's address, or None."""
    if frame[12:14] == ARP.to_bytes(2, "big"):
        asker, ip, wanted = frame[22:28], frame[28:32], frame[38:42]
        if frame[20:22] == REQUEST and wanted == host.ip:
            body = REPLY + host.mac + host.ip + asker + ip
            return ethernet(asker, host.mac, ARP, frame[14:20] + body)
        return None
    return _answer_ip(host, frame, SOLICIT)


def answer_echo(host: Host, frame: bytes) -> bytes | None:
    """Return the answer to a ping for the host, or None."""
    return _answer_ip(host, frame, ECHO) if frame[:6] == host.mac else None


def is_reply(frame: bytes, question: bytes) -> bool:
    """Say whether a frame answers a question of this module, to its asker."""
    if frame[:6] != question[6:12] or frame[12:14] != question[12:14]:
        return False
    if frame[12:14] == ARP.to_bytes(2, "big"):
        return frame[20:22] == REPLY and frame[28:32] == question[38:42]
    size = 4 if frame[12:14] == IPV4.to_bytes(2, "big") else 16
    answers = {pair[0]: pair[1] for pair in (*ECHO.values(), *SOLICIT.values())}
    kind = 14 + 2 * size
    return (
        frame[14 : 14 + size] == question[14 + size : kind]
        and frame[kind : kind + 1] == answers[question[kind : kind + 1]]
    )


def _answer_ip(host: Host, frame: bytes, kinds: dict[int, tuple[bytes, bytes]]) -> bytes | None:
    ethertype = IPV4 if host.version == 4 else IPV6
    if frame[12:14] != ethertype.to_bytes(2, "big") or host.version not in kinds:
        return None
    size = len(host.ip)
    source, target = frame[14 : 14 + size], frame[14 + size : 14 + 2 * size]
    kind, rest = frame[14 + 2 * size : 15 + 2 * size], frame[15 + 2 * size :]
    request, reply = kinds[host.version]
    if target != host.ip or kind != request:
        return None
    return ethernet(frame[6:12], host.mac, ethertype, host.ip + source + reply + rest)
