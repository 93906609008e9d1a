"""Programs that hosts in namespaces run: echo requests, and a file over TCP with its digest."""

__all__ = ["PING", "RECEIVE", "SEND"]

# Send ICMP echo requests until ``count`` were answered; print the round-trip times in ms.
PING = """
import socket, struct, sys, time
address, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(0.2)
end, answered, number = time.monotonic() + seconds, [], 0
while len(answered) < count:
    assert time.monotonic() < end, f"{len(answered)} of {count} answers from {address}"
    number += 1
    body = struct.pack("!BBHHH", 8, 0, 0, 77, number) + bytes(range(48))
    total = sum(struct.unpack("!28H", body))
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    sent = time.monotonic()
    try:
        s.sendto(body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:], (address, 0))
        while True:
            packet = s.recv(2000)
            if packet[20] == 0 and struct.unpack("!HH", packet[24:28]) == (77, number):
                break
    except OSError:
        time.sleep(0.05)
        continue
    answered.append((time.monotonic() - sent) * 1000)
print(min(answered), max(answered))
"""

# Listen, take one connection to its end, print bytes and digest.
RECEIVE = """
import hashlib, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 5001), family=family)
print("listening", flush=True)
listener.settimeout(60)
caller, _ = listener.accept()
caller.settimeout(60)
digest, count = hashlib.sha256(), 0
while data := caller.recv(1 << 16):
    digest.update(data)
    count += len(data)
print(count, digest.hexdigest())
"""

# Connect, send so many bytes, print them and their digest.
SEND = """
import hashlib, os, socket, sys
total = int(sys.argv[2])
digest, left = hashlib.sha256(), total
with socket.create_connection((sys.argv[1], 5001), timeout=60) as s:
    while left:
        data = os.urandom(min(left, 1 << 20))
        digest.update(data)
        s.sendall(data)
        left -= len(data)
print(total, digest.hexdigest())
"""
