/* The adaptive mutex with KERNEL_LOCK: Mutex.enter, _enter_slow, _sleep, exit and _wake of netstack/kern/mutex.py,
 * KernelLock.release_all and reacquire of kernel_lock.py (mutex(9), kernel_lock(9)).
 *
 * Three threads on CPUS processors share one mutex and KERNEL_LOCK:
 *   0  holds KERNEL_LOCK, twice over, and takes the mutex;
 *   1  holds the mutex and takes KERNEL_LOCK;
 *   2  holds the mutex and is off its processor for a while.
 * A waiter for the mutex spins while the owner runs and does not itself wait for KERNEL_LOCK; else it sleeps, and gives
 * up KERNEL_LOCK meanwhile.  A waiter for KERNEL_LOCK spins on its processor.  Spinning is a blocking wait here, so a
 * spinner that can never go on is a deadlock the checker reports.
 *
 * Shown: mutual exclusion of both locks, no deadlock, no wake-up lost, KERNEL_LOCK back to its depth after a sleep.
 *
 * Sequentially consistent: the code is Python, the word of the mutex one atomic exchange.
 */
#ifndef CPUS
#define CPUS 2
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define THREADS 3
#define NOBODY  THREADS

bit  word;                      /* the mutex: Mutex._word */
byte owner = NOBODY;            /* Mutex._owner: written by who holds the word */
bit  queued[THREADS];           /* Mutex._waiters; the order does not matter, a release wakes all */
bit  woken[THREADS];            /* Sleeper: a wake-up before the sleep is kept */
byte kernel_lock = NOBODY;
byte depth[THREADS];            /* holds of KERNEL_LOCK */
bit  wants_kernel_lock[THREADS];
bit  running[THREADS];          /* on a processor */
byte idle_cpus = CPUS;
byte in_mutex, in_kernel;       /* checks */

inline get_cpu()    { atomic { idle_cpus > 0 -> idle_cpus--; running[me] = 1 } }
inline give_cpu()   { idle_cpus++; running[me] = 0 }

inline kernel_lock_enter(n)
{
    if
    :: kernel_lock == me -> depth[me] = depth[me] + n
    :: else ->
        wants_kernel_lock[me] = 1;
        atomic {
            kernel_lock == NOBODY;
            kernel_lock = me;
            depth[me] = n;
            wants_kernel_lock[me] = 0;
            in_kernel++;
            assert(in_kernel == 1)
        }
    fi
}

inline kernel_lock_exit(n)
{
    atomic {
        assert(kernel_lock == me && depth[me] >= n);
        depth[me] = depth[me] - n;
        if
        :: depth[me] == 0 -> in_kernel--; kernel_lock = NOBODY
        :: else
        fi
    }
}

/* Mutex._may_spin */
#ifdef MUTANT_IGNORE_KERNEL_LOCK
#define MAY_SPIN        (owner == NOBODY || running[owner])
#elif defined(MUTANT_SPIN_FOR_SLEEPER)
#define MAY_SPIN        (owner == NOBODY || !wants_kernel_lock[owner])
#else
#define MAY_SPIN        (owner == NOBODY || (running[owner] && !wants_kernel_lock[owner]))
#endif

inline mutex_sleep()
{
#ifdef MUTANT_LOOK_BEFORE_QUEUE
    if
    :: !word -> goto retry
    :: else
    fi;
    atomic { woken[me] = 0; queued[me] = 1 };
#else
    atomic { woken[me] = 0; queued[me] = 1 };           /* new_sleeper, _waiters.append */
    if
    :: !word -> goto unqueue
    :: else
    fi;
#endif
    held = depth[me];                                   /* KernelLock.release_all */
#ifndef MUTANT_KEEP_KERNEL_LOCK
    if
    :: held -> kernel_lock_exit(held)
    :: else
    fi;
#endif
    atomic { give_cpu() };                              /* Sleeper.sleep */
#ifdef MUTANT_WAKE_NOT_KEPT
    woken[me] = 0;
#endif
    woken[me];
    get_cpu();
#ifndef MUTANT_KEEP_KERNEL_LOCK
    if                                                  /* KernelLock.reacquire */
#ifdef MUTANT_RETAKE_ONCE
    :: held -> kernel_lock_enter(1)
#else
    :: held -> kernel_lock_enter(held)
#endif
    :: else
    fi;
#endif
    assert(depth[me] == held);
    held = 0;
unqueue:
    queued[me] = 0
}

inline mutex_enter()
{
    do
    :: atomic { !word -> word = 1; in_mutex++; assert(in_mutex == 1) };
        owner = me;                                     /* Mutex._take */
        break
    :: else ->
        if
        :: MAY_SPIN -> !word || !MAY_SPIN               /* Engine.spin_while */
        :: else
        fi;
        if
        :: !word
        :: else -> mutex_sleep()
        fi;
retry:  skip
    od
}

inline mutex_wake()                                     /* as many as there are now */
{
    i = 0;
    do
    :: i == THREADS -> break
    :: else ->
        atomic {
            if
            :: queued[i] -> queued[i] = 0; woken[i] = 1
            :: else
            fi
        };
        i++
    od;
    i = 0
}

inline mutex_exit()
{
    in_mutex--;
#ifdef MUTANT_OWNER_CLEARED_LATE
    word = 0;
    owner = NOBODY;
    mutex_wake()
#elif defined(MUTANT_WAKE_BEFORE_RELEASE)
    owner = NOBODY;
    mutex_wake();
    word = 0
#else
    owner = NOBODY;
    word = 0;
    mutex_wake()
#endif
}

proctype thread(byte me)
{
    byte n = 0, i, held;
    get_cpu();
    do
    :: n == ROUNDS -> break
    :: else ->
        n++;
        if
        :: me == 0 ->
            kernel_lock_enter(1);
            kernel_lock_enter(1);
            mutex_enter();
            mutex_exit();
            kernel_lock_exit(1);
            kernel_lock_exit(1)
        :: me == 1 ->
            mutex_enter();
            kernel_lock_enter(1);
            kernel_lock_exit(1);
            mutex_exit()
        :: else ->
            mutex_enter();
            atomic { give_cpu() };
            get_cpu();
            mutex_exit()
        fi
    od;
    atomic { give_cpu() }
}

init { atomic { run thread(0); run thread(1); run thread(2) } }
