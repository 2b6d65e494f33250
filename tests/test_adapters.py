"""Every multimodal family passes the adapter suite, and every mutation makes it fail."""

import pytest

from sinkscope.errors import SiteError
from sinkscope.subjects.multimodal.registry import composites
from tests.adapters.cases import CASES
from tests.adapters.places import check_places
from tests.adapters.suite import CHECKS, MUTATIONS, Case, places_shifted_by_one

BY_NAME = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.mark.parametrize("check", CHECKS)
@BY_NAME
def test_a_family_passes(case: Case, check: str) -> None:
    CHECKS[check](case)


@pytest.mark.parametrize("mutation", MUTATIONS)
@BY_NAME
def test_a_mutation_fails(case: Case, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, check = MUTATIONS[mutation]
    check(case)
    with broken(case, monkeypatch), pytest.raises((AssertionError, SiteError)):
        check(case)


WITH_PLACES = pytest.mark.parametrize(
    "case", [case for case in CASES if case.places], ids=lambda case: case.name
)


@WITH_PLACES
def test_a_change_touches_the_tokens_of_its_place(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_places(case)
    with places_shifted_by_one(case, monkeypatch), pytest.raises(AssertionError):
        check_places(case)


def test_every_family_has_a_case() -> None:
    assert {case.name for case in CASES} == set(composites())
