"""Who goes next: the decisions of a controlled schedule (random, PCT, bounded exhaustive, replay).

One decision picks an option out of a set of at most 64: logical CPUs, and whatever else a scheduler can let happen
(a delayed store becoming visible, an interrupt).  A decision with one option is none and is not recorded, so a
schedule is the bytes of its decisions, and those bytes replay it.

  random  each decision by lot; how readily the one that runs goes on running is drawn anew for each schedule
  pct     every option has a random priority, the highest enabled one runs, and at depth - 1 random steps the running
          one falls below all others (Burckhardt et al., ASPLOS 2010): a bug of depth d is met with probability
          >= 1 / (options * steps^(d-1)) in each schedule
  dfs     all schedules with at most ``bound`` switches away from an option that could have gone on; bound 0, 1, ...
  replay  the given decisions; after them whatever runs goes on running
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

cdef extern from * nogil:
    """
    #define ns_lowest64(x) __builtin_ctzll(x)
    #define ns_bits64(x) __builtin_popcountll(x)
    """
    int ns_lowest64(uint64_t x) noexcept
    int ns_bits64(uint64_t x) noexcept

cdef enum:
    CHOOSE_RANDOM = 0
    CHOOSE_PCT = 1
    CHOOSE_DFS = 2
    CHOOSE_REPLAY = 3
    OPTIONS_MAX = 64
    PCT_DEPTH_MAX = 16

cdef struct dfs_node_t:          # one decision on the way to the current leaf
    uint64_t untried             # options still to be taken from here
    uint32_t used                # preemptions spent before it
    int current                  # who ran
    uint64_t enabled

cdef struct chooser_t:
    uint32_t strategy
    uint32_t depth               # pct
    uint32_t preemptions         # dfs: the last bound
    uint32_t bound               # dfs: the bound under way
    uint64_t seed
    uint64_t state               # of the generator, never 0
    uint64_t schedules           # begun
    uint32_t is_exhausted        # dfs: no schedule left
    uint32_t has_diverged        # replay: a decision named an option that was not enabled
    uint32_t is_short_of_memory
    uint32_t reluctance          # random: 0 any option alike, k: goes on with probability 1 - 2^-k
    uint32_t n                   # decisions of this schedule
    uint32_t room                # decisions the arrays hold
    uint32_t steps               # pct: decisions made in this schedule, one-option ones included
    uint32_t length              # pct: estimate of steps, from earlier schedules
    uint32_t used                # dfs: preemptions spent
    uint32_t prefix              # dfs: decisions to be repeated
    uint32_t script_n
    uint32_t pad
    uint8_t *choice              # decisions of this schedule
    dfs_node_t *node             # dfs: beside choice
    const uint8_t *script        # replay
    uint32_t change[PCT_DEPTH_MAX]
    uint64_t priority[OPTIONS_MAX]


cdef inline uint64_t chooser_random(chooser_t *ch) noexcept nogil:
    """xorshift64*: the same numbers from the same seed everywhere."""
    cdef uint64_t x = ch.state
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    ch.state = x
    return x * <uint64_t> 0x2545F4914F6CDD1D


cdef inline void chooser_seed(chooser_t *ch, uint64_t schedule) noexcept nogil:
    """Start the generator for a schedule: splitmix64 of seed and number."""
    cdef uint64_t x = ch.seed + (schedule + 1) * <uint64_t> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EB
    x ^= x >> 31
    ch.state = x if x != 0 else 1


cdef inline int chooser_nth(uint64_t mask, uint32_t n) noexcept nogil:
    """The n-th set bit, from the lowest."""
    while n:
        mask &= mask - 1
        n -= 1
    return ns_lowest64(mask)


cdef inline bint chooser_grow(chooser_t *ch) noexcept nogil:
    """Room for more decisions; false when there is no memory."""
    cdef uint32_t room = ch.room * 2 if ch.room else 256
    cdef void *choice = realloc(ch.choice, room)
    cdef void *node
    if choice == NULL:
        ch.is_short_of_memory = 1
        return False
    ch.choice = <uint8_t *> choice
    if ch.strategy == CHOOSE_DFS:
        node = realloc(ch.node, room * sizeof(dfs_node_t))
        if node == NULL:
            ch.is_short_of_memory = 1
            return False
        ch.node = <dfs_node_t *> node
    ch.room = room
    return True


cdef inline bint dfs_backtrack(chooser_t *ch) noexcept nogil:
    """Turn the deepest decision that has an option left; false when none has."""
    cdef dfs_node_t *node
    cdef int option
    while ch.n:
        node = &ch.node[ch.n - 1]
        if node.untried:
            option = ns_lowest64(node.untried)
            node.untried &= node.untried - 1
            ch.choice[ch.n - 1] = <uint8_t> option
            ch.prefix = ch.n
            return True
        ch.n -= 1
    return False


cdef inline bint chooser_begin(chooser_t *ch) noexcept nogil:
    """Start the next schedule; false when a dfs has been through all of them."""
    cdef uint32_t i
    cdef uint64_t length
    if ch.strategy == CHOOSE_DFS:
        if ch.is_exhausted:
            return False
        if ch.schedules == 0:
            ch.prefix = 0
        elif not dfs_backtrack(ch):
            if ch.bound >= ch.preemptions:
                ch.is_exhausted = 1
                return False
            ch.bound += 1
            ch.prefix = 0
    elif ch.strategy == CHOOSE_RANDOM:
        chooser_seed(ch, ch.schedules)
        ch.reluctance = <uint32_t> (chooser_random(ch) >> 62)
    elif ch.strategy == CHOOSE_PCT:
        if ch.steps > ch.length:
            ch.length = ch.steps
        elif ch.steps:
            ch.length -= (ch.length - ch.steps) >> 3
        chooser_seed(ch, ch.schedules)
        length = ch.length if ch.length else 64
        for i in range(OPTIONS_MAX):
            ch.priority[i] = (chooser_random(ch) >> 8) + PCT_DEPTH_MAX
        for i in range(ch.depth - 1):
            ch.change[i] = <uint32_t> (1 + chooser_random(ch) % length)
    ch.n = 0
    ch.steps = 0
    ch.used = 0
    ch.has_diverged = 0
    ch.schedules += 1
    return True


cdef inline int choose_random(chooser_t *ch, uint64_t enabled, int current) noexcept nogil:
    cdef uint64_t r = chooser_random(ch)
    if ch.reluctance and current >= 0 and enabled >> current & 1 and r & ((1 << ch.reluctance) - 1):
        return current
    return chooser_nth(enabled, <uint32_t> (((r >> 32) * <uint64_t> ns_bits64(enabled)) >> 32))


cdef inline int choose_highest(chooser_t *ch, uint64_t enabled) noexcept nogil:
    cdef int best = ns_lowest64(enabled), option
    enabled &= enabled - 1
    while enabled:
        option = ns_lowest64(enabled)
        enabled &= enabled - 1
        if ch.priority[option] > ch.priority[best]:
            best = option
    return best


cdef inline int choose_pct(chooser_t *ch, uint64_t enabled) noexcept nogil:
    cdef uint32_t i
    cdef int best = choose_highest(ch, enabled)
    for i in range(ch.depth - 1):
        if ch.change[i] == ch.steps:
            ch.priority[best] = i                # below every priority drawn, and below earlier change points' or not
            best = choose_highest(ch, enabled)
    return best


cdef inline int choose_dfs(chooser_t *ch, uint64_t enabled, int current) noexcept nogil:
    cdef dfs_node_t *node = &ch.node[ch.n]
    cdef bint may_go_on = current >= 0 and enabled >> current & 1
    cdef int option
    if ch.n < ch.prefix:
        option = ch.choice[ch.n]
        if node.enabled != enabled or node.current != current:
            ch.has_diverged = 1                  # the scenario is not deterministic: its count means nothing
            if not enabled >> option & 1:
                option = ns_lowest64(enabled)
    else:
        option = current if may_go_on else ns_lowest64(enabled)
        node.enabled = enabled
        node.current = current
        node.used = ch.used
        node.untried = 0 if may_go_on and ch.used >= ch.bound else enabled & ~(<uint64_t> 1 << option)
    ch.used += may_go_on and option != current
    return option


cdef inline int choose_script(chooser_t *ch, uint64_t enabled, int current) noexcept nogil:
    cdef int option
    if ch.n < ch.script_n:
        option = ch.script[ch.n]
        if option < OPTIONS_MAX and enabled >> option & 1:
            return option
        ch.has_diverged = 1
    return current if current >= 0 and enabled >> current & 1 else ns_lowest64(enabled)


cdef inline int chooser_choose(chooser_t *ch, uint64_t enabled, int current) noexcept nogil:
    """Pick one of ``enabled`` (not 0); ``current`` is what runs now, -1 for nothing."""
    cdef int option
    ch.steps += 1
    if enabled & (enabled - 1) == 0:
        return ns_lowest64(enabled)
    if ch.n >= ch.room and not chooser_grow(ch):
        return ns_lowest64(enabled)
    if ch.strategy == CHOOSE_RANDOM:
        option = choose_random(ch, enabled, current)
    elif ch.strategy == CHOOSE_PCT:
        option = choose_pct(ch, enabled)
    elif ch.strategy == CHOOSE_DFS:
        option = choose_dfs(ch, enabled, current)
    else:
        option = choose_script(ch, enabled, current)
    ch.choice[ch.n] = <uint8_t> option
    ch.n += 1
    return option

cdef class Chooser:
    cdef chooser_t ch
    cdef bytes _script
