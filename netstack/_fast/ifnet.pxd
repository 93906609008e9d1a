"""What the kernels know of an interface: index, address, limits, queues, counters (paper §2.1, §5.4)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.defs cimport STAT_SLOTS, TXQ_MAX, CPU_MAX
from netstack._fast.dispositions cimport Drop

cdef enum:
    IFF_UP = 1
    IFF_RUNNING = 64
    IFF_PROMISC = 0x100
    IFF_LISTEN = 0x10000         # somebody takes local frames: set by ether, read by the kernels
    IFF_TX_HOOK = 0x20000        # the if_transmit slot is a Python function: read by the chain
    IFF_LIVE = 65                # UP and RUNNING
    NO_PORT = 255
    TABLE_ETHER = 0              # stage tables of the compiled chain (chain.pyx)
    TABLE_BRIDGE = 1
    TABLE_PUNT = 2

cdef struct ifstat_t:            # one per CPU: written by that CPU only, added once per vector, summed on read
    uint64_t ipackets            # frames taken from the receive ring
    uint64_t ibytes
    uint64_t imcasts
    uint64_t opackets            # frames the device put on its wire
    uint64_t obytes
    uint64_t omcasts
    uint64_t delivered           # frames handed to a local listener
    uint64_t copies              # frames made by copying (floods, local copies)
    uint64_t originated          # frames the local stack sent out
    uint64_t rx_vectors
    uint64_t tx_bursts
    uint64_t spare[13]           # up to 384 bytes: no two CPUs on one pair of lines
    uint64_t drops[24]


cdef struct ifnet_t:
    uint32_t index
    uint32_t flags               # IFF_*; written by the control plane
    uint64_t mac                 # 48-bit key
    uint32_t maxlen              # longest untagged frame without FCS (MTU + 14)
    uint32_t table               # TABLE_*: which stage table serves this interface
    uint32_t port                # index in its bridge's port map, or NO_PORT
    uint32_t ntxq
    void *bridge                 # bridge_t; set under the bridge's lock, read inside a read section
    void *txq[TXQ_MAX]           # txq_t
    uint8_t txq_of_cpu[CPU_MAX + 1]
    ifstat_t *stat               # STAT_SLOTS blocks

cdef class IfnetBlock:
    cdef ifnet_t *ifp
    cdef list _queues            # keeps TxQueue objects alive
