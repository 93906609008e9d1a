"""Every limit, default and batch size, with unit and source; relations are checked at import.

Sizes that the kernels compile in (vector, punt ring, magazines) are in ``_fast/defs.pxd`` and its neighbours.
"""

# Machine
CPU_MAX = 64  # virtual CPUs; one 64-bit word holds a set of them
PSZ_STALL_S = 1.0  # machine time; a grace period that takes longer is reported
PSZ_STALLS_MAX = 64  # reports kept for reading
MBUFS_DEFAULT = 32768  # mbufs of a machine: 66 MiB of address space, touched as used
MBUFS_PER_QUEUE_SPARE = 2  # receive rings are refused that would take more than half of what is free

# LOCKDEBUG (checked build): reaching a limit is said aloud, once
LOCKDEBUG_LOCKS_MAX = 65536  # locks that exist at a time
LOCKDEBUG_CLASSES_MAX = 1024  # nodes of the lock order
LOCKDEBUG_EDGES_MAX = 8192  # pairs in the lock order
LOCKDEBUG_REPORTS_MAX = 256  # findings kept for reading

# Interfaces
IF_MTU_MIN = 68  # bytes; RFC 791
IF_MTU_MAX = 1500  # bytes; one mbuf holds a frame of 2062 bytes, NICs here know no jumbo frames
IF_RECVQ_MAXLEN_FRAMES = 65536  # frames kept for Ifnet.recv
NETISR_MAXLEN_FRAMES = 4096  # frames of control threads on their way to a CPU

# NIC (Intel I354: 8 RX and 8 TX queues; NetBSD if_wm)
WM_QUEUES_MAX = 8
WM_RX_SLOTS = 256  # descriptors of a receive ring
WM_TX_SLOTS = 512  # descriptors of a transmit ring
IFQ_MAXLEN_FRAMES = 1024  # if_snd of one TX queue
WIRE_LIMIT_FRAMES = 262144  # frames a cable holds in one direction
TX_ITR_NS = 20_000  # least time between transmit interrupts of a queue (interrupt throttle)

# Drain limits (paper §6.2)
DRAIN_BURST_FRAMES = 256  # one vector

# Bridge (NetBSD if_bridge.c, bridge(4))
BRIDGE_MEMBERS_MAX = 252  # the port is 8 bits of an address table word
BRIDGE_RTABLE_MAX = 100  # addresses
BRIDGE_RTABLE_MAX_LIMIT = 1 << 20  # addresses
BRIDGE_RTABLE_TIMEOUT_S = 1200
BRIDGE_RTABLE_TIMEOUT_LIMIT_S = 2**32 - 1
BRIDGE_RTABLE_AGE_PERIOD_S = 120  # longest sweep period: age codes come round after 252 s
BRIDGE_RTABLE_SWEEP_ADDRESSES_PER_S = 65536  # room swept for expired addresses; limits what a large table costs

assert BRIDGE_RTABLE_AGE_PERIOD_S * 2 < 252, "a sweep must see every age code before it is used again"
assert WM_RX_SLOTS & (WM_RX_SLOTS - 1) == 0 and WM_TX_SLOTS & (WM_TX_SLOTS - 1) == 0
assert MBUFS_DEFAULT >= 4 * WM_QUEUES_MAX * WM_RX_SLOTS
