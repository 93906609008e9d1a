"""Find the highest rate a device passes without loss, from trials (RFC 2544 section 26.1).

Pure: the device is a callable ``measure(rate_fps) -> Trial``; nothing here knows a clock, a network
or a machine.  A bracket of a rate that passed and one that failed is narrowed to the resolution: by
halving, except that after a failure the rate that did come through is tried first, and that from a
pass the way up begins with one step of the resolution.  Both ends of the bracket are always trials.

A host that runs other work besides makes single trials fail.  Two measures, both stated in the
result: a failed rate is tried again before it counts as failed (ETSI GS NFV-TST 009 calls this
binary search with loss verification), and the rate found is confirmed by further trials.  A rate
that failed although a much higher one passed makes the result too noisy to judge.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["STRICT", "Found", "Limits", "Trial", "Verdict", "judge", "search"]

# A trial with more frames late than this share did not offer its rate.  What is reported of one with
# fewer is what was offered and came out, so late frames never make a result look better.
LATE_SHARE_MAX = 0.02

# More than this share lost or late is beyond doubt: such a rate gets no second try.
DOUBTFUL_SHARE_MAX = 0.05

# Without a hint, the first step down from a rate that failed, as a share of it; doubles each time.
FIRST_STEP_DOWN = 0.04

# A device in livelock forwards next to nothing: less than this share of a rate is no hint.
HINT_SHARE_MIN = 0.1

# Nothing passes: give up once the rate tried is this share of the first guess.
GIVE_UP_SHARE = 1e-4

# A failed rate below a passed one by more than this share of it: the host is too noisy.
DISAGREEMENT_MAX = 0.25

# A point is too noisy when the host took away more than this share of its trial.
PAUSED_SHARE_MAX = 0.2

# How often a rate found may fail its confirmation before the point counts as too noisy.
CONFIRM_FAILURES_MAX = 6


class Verdict(Enum):
    """What a trial says of its rate."""

    PASSED = "passed"
    LOSS = "loss"
    GROWING = "queues grow"
    GENERATOR = "generator limit"


@dataclass(frozen=True)
class Trial:
    """One trial: ``sent`` frames offered in ``seconds``, ``forwarded`` of them came out.

    ``late`` frames were never offered because the generator was behind, ``paused`` ones because the
    host gave its CPU to other work; ``lost_by`` says which counters hold the difference between sent
    and forwarded; ``growth_fps`` is how fast the frames on their way inside the device became more
    towards the end.
    """

    rate_fps: float
    seconds: float
    sent: int
    forwarded: int
    late: int = 0
    paused: int = 0
    lost_by: dict[str, int] = field(default_factory=dict)
    growth_fps: float = 0.0

    @property
    def loss(self) -> float:
        """Return the share of the frames sent that did not come out."""
        return (self.sent - self.forwarded) / self.sent if self.sent else 1.0

    @property
    def due(self) -> int:
        """Return the frames that the rate calls for."""
        return self.sent + self.late + self.paused

    @property
    def forwarded_fps(self) -> float:
        """Return what came out a second; of a paced trial without the rounding of a short one."""
        if self.rate_fps and self.due:
            return self.rate_fps * self.forwarded / self.due
        return self.forwarded / self.seconds

    @property
    def sustained_fps(self) -> float:
        """Return what came out while the host let the device run, without what only had room in queues."""
        running = 1.0 - self.paused_share
        return (self.forwarded_fps - max(0.0, self.growth_fps)) / running if running else 0.0

    @property
    def late_share(self) -> float:
        return self.late / self.due if self.due else 1.0

    @property
    def paused_share(self) -> float:
        return self.paused / self.due if self.due else 0.0


@dataclass(frozen=True)
class Limits:
    """How a search judges and when it ends.

    Args: resolution -- width of the final bracket as a share of its upper end.
          loss -- accepted share of lost frames; 0 is RFC 2544.
          growth -- accepted growth of the queues as a share of the rate: with more than that a
          longer trial would lose frames, though a short one does not.
          tries -- trials a rate gets before it counts as failed, unless the first leaves no doubt.
          confirmations -- further trials of the rate found, each with ``tries`` tries.
          trials_max -- trials after which a search that has not come to an end counts as too noisy.
    """

    resolution: float = 0.01
    loss: float = 0.0
    growth: float = 0.005
    tries: int = 1
    confirmations: int = 0
    trials_max: int = 100


# RFC 2544 as it is written: no loss, one trial a rate.
STRICT = Limits()


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    ``best`` is the trial of the highest rate that held; None when nothing passed.  ``noisy`` is
    empty, or says why the result cannot be judged.  ``failed_fps`` is the upper end of the final
    bracket; None when the ceiling itself passed.
    """

    best: Trial | None
    failed_fps: float | None
    trials: int
    confirmed: int
    noisy: str = ""


def judge(trial: Trial, limits: Limits) -> Verdict:
    """Say whether the trial passed; a generator that could not keep pace is no loss, nor a pass."""
    if trial.late_share > LATE_SHARE_MAX:
        return Verdict.GENERATOR
    if trial.sent == 0 or trial.loss > limits.loss:
        return Verdict.LOSS
    if trial.growth_fps > trial.rate_fps * (limits.growth + limits.loss):
        return Verdict.GROWING
    return Verdict.PASSED


class _Search:
    """State of one search: the bracket, and every verdict so far."""

    def __init__(self, measure: Callable[[float], Trial], ceiling_fps: float, limits: Limits):
        self.measure = measure
        self.ceiling = ceiling_fps
        self.limits = limits
        self.best: Trial | None = None
        self.held: list[Trial] = []
        self.failed: Trial | None = None
        self.highest_pass = 0.0
        self.lowest_fail = float("inf")
        self.trials = 0
        self.losses = 0
        self.step_up = limits.resolution
        self.step_down = FIRST_STEP_DOWN

    def try_rate(self, rate: float) -> bool:
        """Run trials of one rate until one passes or no doubt is left; move the bracket."""
        for _ in range(max(1, self.limits.tries)):
            trial = self.measure(rate)
            self.trials += 1
            verdict = judge(trial, self.limits)
            if verdict is Verdict.PASSED:
                self.held = [kept for kept in self.held if kept.rate_fps == rate] + [trial]
                self.best = trial
                self.highest_pass = max(self.highest_pass, rate)
                return True
            self.losses += verdict is not Verdict.GENERATOR
            if trial.loss + trial.late_share > DOUBTFUL_SHARE_MAX:
                break
        self.failed = trial
        self.lowest_fail = min(self.lowest_fail, rate)
        return False

    def narrow(self, guess: float) -> bool:
        """Close in on the limit until [best, failed] is as narrow as the resolution.

        Ends early when the ceiling passes, or when nothing does down to near zero; false when the
        trials were used up before.
        """
        rate = min(guess, self.ceiling)
        give_up = rate * GIVE_UP_SHARE
        while not self.is_spent:
            passed = self.try_rate(rate)
            if rate >= self.ceiling if passed else rate <= give_up:
                return True
            if self.best and self.failed:
                low, high = self.best.rate_fps, self.failed.rate_fps
                if high - low <= self.limits.resolution * high:
                    return True
            rate = self.above() if passed else max(self.below(), give_up)
        return False

    @property
    def is_spent(self) -> bool:
        return self.trials >= self.limits.trials_max

    def above(self) -> float:
        """Return the next rate after a pass: a step up that doubles, not past the middle."""
        assert self.best is not None
        rate = self.best.rate_fps * (1 + self.step_up)
        self.step_up *= 2
        if self.failed is not None:
            rate = min(rate, (self.best.rate_fps + self.failed.rate_fps) / 2)
        return min(rate, self.ceiling)

    def below(self) -> float:
        """Return the next rate after a failure: what came through, if inside, else the middle."""
        assert self.failed is not None
        low = self.best.rate_fps if self.best else 0.0
        high = self.failed.rate_fps
        margin = self.limits.resolution
        self.step_up = margin
        hint = self.failed.sustained_fps
        if max(low * (1 + margin), high * HINT_SHARE_MIN) < hint < high * (1 - margin):
            return hint
        if low:
            return (low + high) / 2
        rate = high * (1 - min(self.step_down, 0.5))
        self.step_down *= 2
        return rate

    def confirm(self) -> int:
        """Repeat the rate found; how many repetitions passed before one failed."""
        assert self.best is not None
        found = self.best
        for done in range(self.limits.confirmations):
            if self.is_spent or not self.try_rate(found.rate_fps):
                return done
        return self.limits.confirmations

    def noise(self) -> str:
        """Say what makes the trials contradict each other, or nothing."""
        if self.highest_pass - self.lowest_fail > DISAGREEMENT_MAX * self.highest_pass:
            return (
                f"trials disagree: {self.highest_pass / 1e3:.1f} kfps passed, {self.lowest_fail / 1e3:.1f} kfps failed"
            )
        if self.best is None and self.losses == 0:
            return "the generator kept pace at no rate"
        if self.best and self.best.paused_share > PAUSED_SHARE_MAX:
            return f"the host ran other work for {self.best.paused_share:.0%} of the trial"
        return ""

    def found(self, confirmed: int, noisy: str) -> Found:
        """Return the outcome; of the trials that passed at the rate found, the middle one."""
        if self.best:
            self.held.sort(key=lambda trial: trial.forwarded_fps)
            self.best = self.held[len(self.held) // 2]
        failed_fps = self.failed.rate_fps if self.failed else None
        return Found(self.best, failed_fps, self.trials, confirmed, noisy or self.noise())


def search(
    measure: Callable[[float], Trial],
    ceiling_fps: float,
    *,
    guess_fps: float | None = None,
    limits: Limits = STRICT,
) -> Found:
    """Find the highest rate that passes.

    Args: measure -- runs one trial of a rate in frames a second.
          ceiling_fps -- no rate above it is tried (the wire's rate, say).
          guess_fps -- where to start; without one, at the ceiling.
    Returns: with a device that passes exactly the rates up to C, a rate in
             ``(C * (1 - resolution), C]``, or the ceiling if that passes.
    Cost:    about ``log2(1 / resolution)`` trials, fewer with a good guess.
    """
    state = _Search(measure, ceiling_fps, limits)
    guess = guess_fps or ceiling_fps
    for _ in range(CONFIRM_FAILURES_MAX):
        is_narrow = state.narrow(guess)
        if is_narrow and state.best is None:
            break
        confirmed = state.confirm() if is_narrow else 0
        if is_narrow and confirmed == limits.confirmations:
            return state.found(confirmed, "")
        if state.is_spent:
            return state.found(confirmed, f"no agreement after {state.trials} trials")
        assert state.best is not None
        # The rate did not hold: it is the upper end now, and what is below must be found again.
        guess = state.best.rate_fps * (1 - limits.resolution)
        state.best = None
    reason = f"no rate passed {limits.confirmations} confirmations" if state.highest_pass else ""
    return state.found(0, reason)
