"""Threads work off jobs in order, hand back results and errors, and end when they are told."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import pytest

from zodbvault.io.workers import MOST_THREADS, Workers, thread_count


def test_one_thread_keeps_the_order() -> None:
    seen: list[int] = []
    with Workers(1, "test") as workers:
        jobs = [workers.submit(lambda number=number: seen.append(number)) for number in range(200)]
        for job in jobs:
            job.wait()
            assert job.is_done
    assert seen == list(range(200))


def test_results_and_errors_come_back_to_who_waits() -> None:
    with Workers(2, "test") as workers:
        good = workers.submit(lambda: 6 * 7)
        bad = workers.submit(lambda: 1 // 0)
        assert good.wait() == 42
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                bad.wait()
        assert workers.submit(lambda: "still at work").wait() == "still at work"


def test_closing_drops_what_was_not_begun_and_ends_the_threads() -> None:
    before = set(threading.enumerate())
    begun, told, go_on = threading.Event(), threading.Event(), threading.Event()
    done: list[int] = []

    class Jobs(SimpleQueue):  # type: ignore[type-arg]
        def put(self, job: object, *_: object) -> None:
            super().put(job)
            if job is None:
                told.set()

    def slow() -> None:
        begun.set()
        go_on.wait()

    workers = Workers(1, "test")
    first = workers.submit(slow)
    assert begun.wait(60)
    workers._jobs = Jobs()
    for number in range(100):
        workers.submit(lambda number=number: done.append(number))
    closing = threading.Thread(target=workers.close)
    closing.start()
    # The queue is emptied before the thread, which is still at its first job, is told to end and waited for.
    assert told.wait(60)
    assert closing.is_alive()
    go_on.set()
    closing.join()
    first.wait()
    assert done == []
    assert set(threading.enumerate()) - before == set()
    workers.close()


def test_without_any_thread_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        Workers(2, "test")


def test_as_many_threads_as_cores_but_not_too_many() -> None:
    assert 1 <= thread_count() <= MOST_THREADS
