"""What `make mutation` rests on: the table of tests, the explanations, and what it makes of them. Without mutmut."""

from __future__ import annotations

import pytest
from tools.mutation import EXPLAINED, PROJECT, STRICT, TESTS, Change, Outcome, judge, read_explained
from tools.mutation_worker import undecorated

SOURCES = PROJECT / "src" / "zodbvault"
CHANGE = Change("repository/dat", "parse_dat", "a < b", "a <= b")
OTHER = Change("repository/dat", "can_follow", "a", "None")


def test_the_table_names_what_there_is_and_forgets_no_module_that_decides() -> None:
    for module, tests in TESTS.items():
        assert (SOURCES / f"{module}.py").is_file()
        assert tests
        assert all((PROJECT / "tests" / name).is_file() for name in tests)
    for package in ("repository", "filestorage"):
        modules = {f"{package}/{path.stem}" for path in (SOURCES / package).glob("*.py")} - {f"{package}/__init__"}
        assert modules <= set(TESTS)
    assert set(STRICT) <= set(TESTS)


def test_what_is_explained_still_stands_in_the_code() -> None:
    explained = read_explained(EXPLAINED.read_text(encoding="utf-8"))
    assert explained
    for change, why in explained.items():
        source = (SOURCES / f"{change.module}.py").read_text(encoding="utf-8")
        assert " ".join(change.was.split()) in " ".join(source.split()), change
        assert change.function.rpartition(".")[2] in source
        assert change.was != change.now
        assert why.endswith(".")


def test_where_no_mistake_is_allowed_each_survivor_has_to_be_explained() -> None:
    outcome = Outcome("repository/dat", 100, (CHANGE,))
    assert judge(outcome, {CHANGE}).problems == []
    assert judge(outcome, set()).unexplained == (CHANGE,)
    assert judge(outcome, set()).problems == ["1 survivors here, where none is allowed"]


def test_an_explanation_goes_with_its_survivor() -> None:
    verdict = judge(Outcome("repository/dat", 100, (CHANGE,)), {CHANGE, OTHER, OTHER._replace(module="repository/x")})
    assert verdict.outdated == (OTHER,)
    assert verdict.problems == ["1 explanations without a survivor"]


@pytest.mark.parametrize(("total", "problems"), [(20, []), (19, ["more than one in 10 survived"])])
def test_elsewhere_one_in_ten_may_survive(total: int, problems: list[str]) -> None:
    survivors = (CHANGE._replace(module="repository/store"), OTHER._replace(module="repository/store"))
    assert judge(Outcome("repository/store", total, survivors), set()).problems == problems
    assert judge(Outcome("repository/store", total, survivors), {*survivors}).problems == problems


def test_a_decorator_behind_its_function_does_the_same() -> None:
    source = '''\
import contextlib
import functools

class Line:
    """A line."""

    def __init__(self, end):
        self.end = end

    @property
    def size(self):
        """Its size."""
        return self.end - 4

    @classmethod
    def empty(cls):
        return cls(4)


@functools.lru_cache(
    maxsize=None,
)
@functools.wraps(len)
def twice(number):
    return number * 2

@contextlib.contextmanager
def opened():
    yield Line(10)
'''
    changed = undecorated(source)
    assert "@" not in changed
    names: dict[str, object] = {}
    exec(changed + "with opened() as line: sizes = line.size, Line.empty().size, twice(4), twice.__name__", names)
    assert names["sizes"] == (6, 0, 8, "len")
