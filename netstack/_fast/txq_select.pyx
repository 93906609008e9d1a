"""Per-CPU TX queue selection: round robin, with the affinity override of the measurement (paper §5.4, §6.1).

Context: control plane; the result is a table the kernels index with the CPU number, so choosing costs one load.
"""
from netstack._fast.defs cimport CPU_MAX, TXQ_MAX


def txq_select(ncpu: int, ntxq: int, affinity=None) -> list:
    """TX queue of each CPU, ``ncpu + 1`` entries (the last serves callers that are no CPU).

    ``affinity`` maps a CPU to the queue whose interrupt is bound to it; other CPUs go round robin.
    Raises ValueError for sizes or indices out of range.
    """
    if not 1 <= ncpu <= CPU_MAX or not 1 <= ntxq <= TXQ_MAX:
        raise ValueError(f"no TX queue selection for {ncpu} CPUs and {ntxq} queues")
    table = [int(txq_round_robin(i, ntxq)) for i in range(ncpu + 1)]
    for cpu, queue in (affinity or {}).items():
        if not 0 <= cpu < ncpu or not 0 <= queue < ntxq:
            raise ValueError(f"CPU {cpu} cannot use TX queue {queue} of {ntxq}")
        table[cpu] = queue
    return table
