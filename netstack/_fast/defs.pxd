"""Sizes and small types shared by the kernels.  Limits with policy in them are in ``netstack/params.py``."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t

cdef enum:
    CACHELINE_BYTES = 64
    VEC_MAX = 256            # frames in one packet vector
    CPU_MAX = 64             # virtual CPUs of one machine
    STAT_SLOTS = 65          # one counter block per CPU and one for callers that are no CPU (control threads)
    PORT_MAX = 252           # members of one bridge: the port is 8 bits of a MAC table word
    TXQ_MAX = 64             # TX queues of one interface
    VECTOR_MAX = 256         # interrupt slots of one CPU
    VECTOR_WORDS = 4         # 64-bit words of a bitmap of slots
    SOFTINT_MAX = 256        # softint handles of one machine
    SOFTINT_LEVELS = 4       # clock 0, bio 1, net 2, serial 3 (NetBSD softint(9))
    ETHER_HDR_LEN = 14
    ETHER_ADDR_MASK_BITS = 48

cdef enum:
    MAC_MASK = 0xFFFFFFFFFFFF
