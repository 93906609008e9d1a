"""What the real-world ports use of the host's headers: packet(7), sendmmsg(2), readv(2), poll(2)."""
from libc.stdint cimport uint16_t, uint32_t

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t readv(int fd, const iovec *iov, int n) noexcept
    ssize_t writev(int fd, const iovec *iov, int n) noexcept

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int sendmmsg(int fd, mmsghdr *msg, unsigned int n, int flags) noexcept
    int getsockopt(int fd, int level, int name, void *value, socklen_t *nbytes) noexcept
    enum:
        SOL_SOCKET
        SO_ERROR
        MSG_DONTWAIT

cdef extern from "linux/if_packet.h" nogil:
    cdef struct tpacket_hdr_variant1:
        uint32_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    cdef struct tpacket3_hdr:
        uint32_t tp_next_offset
        uint32_t tp_snaplen
        uint32_t tp_len
        uint32_t tp_status
        uint16_t tp_mac
        tpacket_hdr_variant1 hv1
    cdef struct tpacket_hdr_v1:
        uint32_t block_status
        uint32_t num_pkts
        uint32_t offset_to_first_pkt
    cdef union tpacket_bd_header_u:
        tpacket_hdr_v1 bh1
    cdef struct tpacket_block_desc:
        tpacket_bd_header_u hdr
    cdef struct tpacket_stats_v3:
        unsigned int tp_packets
        unsigned int tp_drops
        unsigned int tp_freeze_q_cnt
    cdef struct sockaddr_ll:
        unsigned char sll_pkttype
    size_t TPACKET_ALIGN(size_t n) noexcept
    enum:
        PACKET_OUTGOING
        PACKET_STATISTICS
        TP_STATUS_KERNEL
        TP_STATUS_USER
        TP_STATUS_VLAN_VALID
        TP_STATUS_VLAN_TPID_VALID

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms) noexcept
    enum:
        POLLOUT

cdef enum:
    SOL_PACKET_LEVEL = 263       # SOL_PACKET, which the headers define in more than one place
