"""The virtual machine: clocks, order, idleness, waiting, errors, end."""

import threading
from errno import EBUSY, EDEADLK, EINVAL, ENXIO, ETIMEDOUT

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.spl import splhigh, splx


def test_time_stands_still_until_something_runs() -> None:
    engine = make()
    engine.run()
    assert engine.now_ns() == 0 and engine.curcpu() is None


def test_charge_moves_the_clock_of_one_cpu() -> None:
    engine = make(2)
    seen: list[tuple[int, int, int]] = []

    def work(amount: int) -> None:
        engine.charge("work", amount)
        cpu = current(engine)
        seen.append((cpu.index, engine.now_ns(), cpu.block.now_ns))

    engine.spawn(lambda: work(1000), cpu=0)
    engine.spawn(lambda: work(10), cpu=1)
    engine.run()
    assert seen == [(1, 510, 510), (0, 1500, 1500)]  # 500 is the switch to the thread
    assert engine.now_ns() == 1500


def test_the_earliest_goes_first_step_by_step() -> None:
    engine = make(3)
    order: list[tuple[int, int]] = []

    def work(stride: int) -> None:
        for _ in range(20):
            engine.charge("work", stride)
            order.append((engine.now_ns(), current(engine).index))

    for cpu, stride in enumerate((7, 11, 13)):
        engine.spawn(lambda stride=stride: work(stride), cpu=cpu)
    engine.run()
    assert [when for when, _ in order] == sorted(when for when, _ in order)
    assert len({cpu for _, cpu in order[:6]}) == 3


def test_an_event_is_seen_at_its_time_by_a_busy_cpu() -> None:
    engine = make()
    state: list[int] = []
    engine.at(700, lambda: state.append(engine.now_ns()))
    seen: list[tuple[int, int]] = []

    def work() -> None:
        for _ in range(4):
            engine.charge("work", 100)
            seen.append((engine.now_ns(), len(state)))

    engine.spawn(work)
    engine.run()
    assert state == [700]
    assert seen == [(600, 0), (700, 1), (800, 1), (900, 1)]


def test_run_seconds_is_exact_and_runs_what_is_due() -> None:
    engine = make()
    device = Device(engine, "dev")
    for when_ns in (0, 999_999_900, 1_000_000_000, 1_000_000_001):
        device.fire_at(when_ns)
    engine.run(seconds=1)
    assert engine.now_ns() == 1_000_000_000
    assert [when - 100 for when, _ in device.log] == [0, 999_999_900]  # 100: the entry
    engine.run(seconds=0.5)
    assert engine.now_ns() == 1_500_000_000
    assert [when for when, _ in device.log[2:]] == [1_000_000_100, 1_000_000_200]
    engine.run(seconds=0)
    assert engine.now_ns() == 1_500_000_000


def test_run_seconds_stops_in_the_middle_of_a_long_handler() -> None:
    engine = make()
    done: list[int] = []

    def work() -> None:
        for _ in range(10):
            engine.charge("work", 1_000_000)
        done.append(engine.now_ns())

    engine.spawn(work)
    engine.run(seconds=0.005)
    assert engine.now_ns() == 5_000_000 and not done
    engine.run()
    assert done == [10_000_500]


def test_background_events_do_not_keep_it_up() -> None:
    engine = make()
    beats: list[int] = []

    def beat() -> None:
        beats.append(engine.now_ns())
        engine.at(engine.now_ns() + 10**9, beat, background=True)

    engine.at(10**9, beat, background=True)
    engine.run()
    assert engine.now_ns() == 0 and not beats
    engine.at(25 * 10**8, lambda: None)
    engine.run()
    assert beats == [10**9, 2 * 10**9]  # those before the event that counts
    engine.run(seconds=2)
    assert beats == [10**9, 2 * 10**9, 3 * 10**9, 4 * 10**9] and engine.now_ns() == 45 * 10**8


def test_an_event_in_the_past_comes_now() -> None:
    engine = make()
    engine.run(seconds=1)
    seen: list[int] = []
    timer = engine.at(5, lambda: seen.append(engine.now_ns()))
    engine.run()
    assert seen == [10**9] and not timer.is_pending


def test_an_idle_cpu_wakes_at_the_time_of_the_interrupt() -> None:
    engine = make(2)
    device = Device(engine, "dev", cpu=1)
    device.fire_at(5000)
    engine.run()
    assert device.log == [(5100, 1)]


def test_an_exception_comes_out_of_run_and_the_machine_goes_on() -> None:
    engine = make()

    def fail() -> None:
        raise ValueError("broken handler")

    bad = Device(engine, "bad", then=fail)
    good = Device(engine, "good")
    bad.fire_at(10)
    good.fire_at(500)
    with pytest.raises(ValueError, match="broken handler") as caught:
        engine.run()
    assert caught.value.__notes__ == ["in hard handler 'bad' on CPU 0 at 110 ns"]
    engine.run()
    assert len(good.log) == 1
    assert current_state(engine) == (0, None, "")


def current_state(engine: object) -> tuple[object, ...]:
    cpu = engine.cpus[0]  # type: ignore[attr-defined]
    return cpu.spl, cpu.context, cpu.handler


def test_an_exception_of_an_event_and_of_a_thread_come_out_too() -> None:
    engine = make()

    def fail() -> None:
        raise KeyError("x")

    engine.at(7, fail)
    with pytest.raises(KeyError) as caught:
        engine.run()
    assert "at 7 ns" in caught.value.__notes__[0]
    lwp = engine.spawn(fail, name="worker")
    with pytest.raises(KeyError) as caught:
        engine.run()
    assert "thread handler 'worker' on CPU 0" in caught.value.__notes__[0]
    assert lwp.is_done
    engine.run()


def test_a_thread_waits_for_another() -> None:
    engine = make(2)
    items: list[int] = []
    seen: list[int] = []

    def consume() -> None:
        engine.wait_until(lambda: bool(items), "an item")
        seen.append(engine.now_ns())

    def produce() -> None:
        engine.charge("work", 3000)
        items.append(1)

    engine.spawn(consume, cpu=0)
    engine.spawn(produce, cpu=1)
    engine.run()
    assert seen == [3500 + 500]  # the item's time and the switch


def test_a_wait_times_out_in_virtual_time() -> None:
    engine = make()
    errors: list[tuple[int | None, int]] = []

    def wait() -> None:
        try:
            engine.wait_until(lambda: False, "never", timeout_s=2.0)
        except NetstackError as error:
            errors.append((error.errno, engine.now_ns()))

    engine.spawn(wait)
    engine.run()
    assert not errors  # a waiting thread is no work
    engine.run(seconds=3)
    assert errors == [(ETIMEDOUT, 2_000_000_500 + 500)]


def test_the_main_program_waits_by_running_the_machine() -> None:
    engine = make()
    device = Device(engine, "dev")
    device.fire_at(4000)
    device.fire_at(8000)
    engine.wait_until(lambda: len(device.log) == 1, "one interrupt")
    assert len(device.log) == 1 and 4000 <= engine.now_ns() < 8000
    with pytest.raises(NetstackError) as caught:
        engine.wait_until(lambda: len(device.log) == 3, "three interrupts")
    assert caught.value.errno == EDEADLK and "three interrupts" in str(caught.value)
    assert len(device.log) == 2


def test_the_main_program_gives_up_in_time() -> None:
    engine = make()

    def beat() -> None:
        engine.at(engine.now_ns() + 10**8, beat)

    beat()
    with pytest.raises(NetstackError) as caught:
        engine.wait_until(lambda: False, "never", timeout_s=1.0)
    assert caught.value.errno == ETIMEDOUT and engine.now_ns() == 10**9


def test_a_deadlock_names_everyone_who_waits() -> None:
    engine = make(2)
    engine.spawn(lambda: engine.wait_until(lambda: False, "an answer"), cpu=1, name="asker")
    with pytest.raises(NetstackError) as caught:
        engine.wait_until(lambda: False, "a question")
    assert caught.value.errno == EDEADLK
    assert "a question" in str(caught.value) and "asker for an answer" in str(caught.value)
    assert engine.now_ns() < 10**9  # it did not sit out the time


def test_interrupts_and_events_may_not_wait() -> None:
    engine = make()
    device = Device(engine, "dev", then=lambda: engine.wait_until(lambda: True, "anything"))
    device.fire_at(1)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK and "only threads may" in str(caught.value)
    engine.at(1000, lambda: engine.wait_until(lambda: False, "anything"))
    with pytest.raises(NetstackError, match="an event cannot wait"):
        engine.run()


def test_an_error_in_a_condition_reaches_the_one_who_waits() -> None:
    engine = make()
    calls: list[int] = []

    def condition() -> bool:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError
        return False

    caught: list[str] = []

    def wait() -> None:
        try:
            engine.wait_until(condition, "trouble")
        except ZeroDivisionError:
            caught.append("here")

    engine.spawn(wait)
    engine.at(9000, lambda: None)
    engine.run()
    assert caught == ["here"]


def test_sleep_takes_its_time_and_keeps_the_machine_up() -> None:
    engine = make(2)
    woken: list[int] = []

    def nap() -> None:
        engine.sleep(1.5)
        woken.append(engine.now_ns())

    engine.spawn(nap, cpu=1)
    engine.run()
    assert woken == [1_500_000_500 + 500]
    with pytest.raises(NetstackError, match="only a thread may sleep"):
        engine.sleep(1)


def test_threads_of_one_cpu_take_turns_when_they_wait() -> None:
    engine = make()
    order: list[str] = []

    def talk(name: str) -> None:
        for _ in range(3):
            order.append(name)
            engine.sleep(1e-6)

    engine.spawn(lambda: talk("a"))
    engine.spawn(lambda: talk("b"))
    engine.run()
    assert order == ["a", "b"] * 3


def test_a_thread_keeps_its_spl_over_a_wait() -> None:
    engine = make()
    levels: list[int] = []

    def careful() -> None:
        cpu = current(engine)
        s = splhigh(cpu)
        engine.sleep(1e-6)
        levels.append(cpu.spl)
        splx(cpu, s)
        levels.append(cpu.spl)

    engine.spawn(careful)
    engine.spawn(lambda: levels.append(current(engine).spl))
    engine.run()
    assert levels == [0, 7, 0]


def test_cross_call_runs_between_two_handlers() -> None:
    engine = make(2)
    device = Device(engine, "dev", cpu=1, work=5000)
    device.fire_at(0)
    seen: list[tuple[object, int]] = []

    def call() -> None:
        engine.charge("work", 1000)
        assert engine.cpus[1].context == "hard"
        engine.cross_call(1, lambda: seen.append((engine.cpus[1].context, engine.cpus[1].time)))

    engine.spawn(call, cpu=0)
    engine.run()
    assert seen == [(None, 5100)]


def test_step_makes_one_decision_and_says_which() -> None:
    engine = make()
    device = Device(engine, "dev")
    device.fire_at(10)
    first, second = engine.step(), engine.step()
    assert first is not None and "Timer" in first and "fire" in first
    assert second is not None and "CPU#0" in second
    assert engine.step() is None and len(device.log) == 1


def test_running_twice_at_once_is_refused() -> None:
    engine = make()
    engine.spawn(engine.run)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EBUSY


def test_another_os_thread_is_refused() -> None:
    engine = make()
    caught: list[int | None] = []

    def elsewhere() -> None:
        try:
            engine.run()
        except NetstackError as error:
            caught.append(error.errno)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught == [EBUSY]


def test_time_does_not_go_back() -> None:
    with pytest.raises(NetstackError) as caught:
        make().run(seconds=-1)
    assert caught.value.errno == EINVAL


def test_close_unwinds_what_is_under_way() -> None:
    engine = make(2)
    left: list[str] = []

    def sleeper() -> None:
        try:
            engine.sleep(1)
        finally:
            left.append("sleeper")

    def worker() -> None:
        try:
            for _ in range(1000):
                engine.charge("work", 1000)
        finally:
            engine.charge("work")
            left.append("worker")

    def waiter() -> None:
        try:
            engine.wait_until(lambda: False, "nothing")
        finally:
            left.append("waiter")

    def spinner() -> None:
        try:
            engine.kernel_lock.enter()
        finally:
            left.append("spinner")

    engine.kernel_lock.enter()
    engine.spawn(sleeper)
    engine.spawn(waiter)
    engine.spawn(worker)
    engine.spawn(spinner, cpu=1)
    engine.run(seconds=1e-4)
    assert not left
    engine.close()
    engine.close()
    assert sorted(left) == ["sleeper", "spinner", "waiter", "worker"]
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == ENXIO


def test_the_trace_is_kept_on_demand() -> None:
    engine = make()
    device = Device(engine, "dev")
    device.fire_at(10)
    engine.run()
    (activation,) = engine.activations
    assert (activation.time_ns, activation.cpu, activation.handler) == (10, 0, "dev")
    assert "CPU#0" in str(activation) and "hard" in str(activation)
    engine.trace(False)
    before = engine.digest()
    device.fire()
    engine.run()
    assert len(engine.activations) == 1 and engine.digest() != before
