"""A few threads that work off what they are given. Imported only where a second block of data comes.

Knows nothing of the work. Threads help here because hashing and compressing let go of the interpreter's lock.
"""

from __future__ import annotations

import os
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Generic, TypeVar

from zodbvault.io.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_THREADS = 4
"""More would wait for the md5, which one thread has to compute in order."""

Result = TypeVar("Result")


def thread_count() -> int:
    """How many threads are worth while: the processor cores that we may use, at most MOST_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, MOST_THREADS))


class Job(Generic[Result]):
    """A piece of work in other hands."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._result: list[Result] = []
        self._error: Exception | None = None
        self._done = Event()

    @property
    def is_done(self) -> bool:
        """Whether wait() returns at once."""
        return self._done.is_set()

    def wait(self) -> Result:
        """The result, when it is there. Raises what the work raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def run(self) -> None:
        """Do the work (called by the thread)."""
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001 - wait() raises it where it can be dealt with
            self._error = error
        finally:
            self._done.set()


class Workers(Closing):
    """Threads that take jobs in the order in which they come; one thread also finishes them in order.

    A context manager; leaving it, or close(), drops what was not begun and returns when the threads have ended.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[Job[object] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        try:
            for number in range(count):
                # daemon: should an owner die without closing, the process must still be able to end.
                thread = Thread(target=self._work_off, name=f"{name}-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except RuntimeError:
            # No more threads for this process (a container's limit): one is enough.
            if not self._threads:
                raise

    def submit(self, work: Callable[[], Result]) -> Job[Result]:
        """Hand over a piece of work."""
        assert self._threads, "closed already"
        job = Job(work)
        self._jobs.put(job)  # type: ignore[arg-type]  # a queue of jobs of any result
        return job

    def close(self) -> None:
        """Drop what was not begun, wait for what was, and end the threads."""
        try:
            while True:
                self._jobs.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work_off(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
