from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.leaks import no_thread_left
from zodbvault.blobs import ahead
from zodbvault.blobs.ahead import pieces_of, worked_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["quick", "slow"], autouse=True)
def speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Slow work goes to threads after the first few pieces, for some time."""
    monkeypatch.setattr(ahead, "_SLOW", -1 if request.param == "slow" else 1000)
    monkeypatch.setattr(ahead, "_THEN_ON_THREADS", 30)
    return str(request.param)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_results_come_in_the_order_of_the_pieces(count: int) -> None:
    pieces = list(pieces_of(range(count), 3))
    assert [item for piece in pieces for item in piece] == list(range(count))
    assert list(worked_ahead(sum, pieces)) == [sum(piece) for piece in pieces]


def test_only_slow_work_goes_to_threads(speed: str) -> None:
    main = threading.main_thread()
    where = list(worked_ahead(lambda _: threading.current_thread(), range(100)))
    assert where[:2] == [main] * 2
    if speed == "quick":
        assert set(where) == {main}
    else:
        # What is slow is looked at anew from time to time.
        assert main not in where[2:32]
        assert where[32:34] == [main] * 2
        assert main not in where[34:64]


def test_a_few_pieces_are_taken_ahead_and_no_more() -> None:
    taken: list[int] = []

    def pieces() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    with closing(worked_ahead(str, pieces())) as results:
        assert next(results) == "0"
        assert len(taken) < 20


def test_an_error_comes_at_its_place_and_the_threads_end() -> None:
    results = worked_ahead(lambda number: 1 // (number - 5), range(100))
    with no_thread_left():
        assert [next(results) for _ in range(5)] == [-1] * 5
        with pytest.raises(ZeroDivisionError):
            next(results)
