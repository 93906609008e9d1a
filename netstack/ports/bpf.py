"""The little of bpf(2) that an AF_XDP port needs: a map of sockets, a program of five instructions, its link.

Raw system calls, no library: the program sends every frame of a queue to the socket the map has for that
queue, and lets it pass to the host's own stack where there is none.  The link goes when its descriptor
does, so a process that is killed leaves nothing behind.

Context: control.   Source: Linux bpf(2), include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import platform
import struct

from netstack.errors import EnvironmentLacksError

__all__ = ["attach", "map_sockets", "redirect_program", "set_socket"]

# Numbers of <linux/bpf.h>.
BPF_MAP_CREATE = 0
BPF_MAP_UPDATE_ELEM = 2
BPF_PROG_LOAD = 5
BPF_LINK_CREATE = 28
BPF_MAP_TYPE_XSKMAP = 17
BPF_PROG_TYPE_XDP = 6
BPF_XDP = 37
BPF_PSEUDO_MAP_FD = 1
BPF_FUNC_REDIRECT_MAP = 51
XDP_PASS = 2
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2

SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
CTX_RX_QUEUE_INDEX = 16  # offset in struct xdp_md
INSN = struct.Struct("<BBhi")  # code, registers, offset, immediate
LICENSE = ctypes.create_string_buffer(b"BSD")

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> int:
    """Make the call.  Raises: OSError; EnvironmentLacksError(ENOSYS) where its number is not known."""
    number = SYS_BPF.get(platform.machine())
    if number is None:
        text = f"AF_XDP: the number of bpf(2) on {platform.machine()} is not known here; use packet:NAME"
        raise EnvironmentLacksError(errno.ENOSYS, text)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(number, command, buffer, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def map_sockets(queues: int) -> int:
    """Return the descriptor of a new XSKMAP with room for ``queues`` sockets."""
    return _bpf(BPF_MAP_CREATE, struct.pack("<IIIII", BPF_MAP_TYPE_XSKMAP, 4, 4, queues, 0))


def set_socket(map_fd: int, queue: int, socket_fd: int) -> None:
    """Let the frames of a queue go to a socket."""
    key, value = ctypes.c_uint32(queue), ctypes.c_uint32(socket_fd)
    attributes = struct.pack("<IxxxxQQQ", map_fd, ctypes.addressof(key), ctypes.addressof(value), 0)
    _bpf(BPF_MAP_UPDATE_ELEM, attributes)


def redirect_program(map_fd: int) -> int:
    """Load the program: ``return bpf_redirect_map(&map, ctx->rx_queue_index, XDP_PASS)``."""
    code = b"".join(
        (
            INSN.pack(0x61, 0x12, CTX_RX_QUEUE_INDEX, 0),  # r2 = *(u32 *)(r1 + 16)
            INSN.pack(0x18, BPF_PSEUDO_MAP_FD << 4 | 1, 0, map_fd),  # r1 = map, two slots
            INSN.pack(0, 0, 0, 0),
            INSN.pack(0xB7, 3, 0, XDP_PASS),  # r3 = XDP_PASS
            INSN.pack(0x85, 0, 0, BPF_FUNC_REDIRECT_MAP),  # call
            INSN.pack(0x95, 0, 0, 0),  # exit
        )
    )
    memory = ctypes.create_string_buffer(code, len(code))
    attributes = struct.pack(
        "<IIQQIIQII16s",
        BPF_PROG_TYPE_XDP,
        len(code) // INSN.size,
        ctypes.addressof(memory),
        ctypes.addressof(LICENSE),
        0,
        0,
        0,
        0,
        0,
        b"netstack_xsk",
    )
    return _bpf(BPF_PROG_LOAD, attributes)


def attach(program_fd: int, ifindex: int, is_native: bool) -> int:
    """Attach the program to an interface: in its driver, or in the generic receive path; return the link."""
    flags = XDP_FLAGS_DRV_MODE if is_native else XDP_FLAGS_SKB_MODE
    return _bpf(BPF_LINK_CREATE, struct.pack("<IIIIQQ", program_fd, ifindex, BPF_XDP, flags, 0, 0))
