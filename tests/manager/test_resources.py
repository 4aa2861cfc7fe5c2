"""Descriptors, and memory that goes back."""

from __future__ import annotations

import resource

import pytest

from starcore.manager import resources


def limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *, refused: bool = False) -> list[tuple[int, int]]:
    """Let the system say these limits; what is set is returned."""
    made: list[tuple[int, int]] = []

    def take(kind: int, wanted: tuple[int, int]) -> None:
        if refused:
            raise ValueError("current limit exceeds maximum limit")
        made.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", take)
    return made


def test_soft_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = limits(monkeypatch, 1024, 65536)
    assert resources.raise_descriptors() == 65536 - resources.DESCRIPTORS_OWN
    assert made == [(65536, 65536)]


def test_hard_limit_without_end_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = limits(monkeypatch, 256, resource.RLIM_INFINITY)
    assert resources.raise_descriptors() == resources.DESCRIPTORS_MAX - resources.DESCRIPTORS_OWN
    assert made == [(resources.DESCRIPTORS_MAX, resource.RLIM_INFINITY)]


@pytest.mark.parametrize("soft", [4096, resource.RLIM_INFINITY])
def test_limit_that_is_high_enough_is_left_alone(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    made = limits(monkeypatch, soft, 4096)
    assert resources.raise_descriptors() == 4096 - resources.DESCRIPTORS_OWN
    assert not made


def test_system_that_allows_less_than_it_says_leaves_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 256, 10240, refused=True)
    assert resources.raise_descriptors() == 256 - resources.DESCRIPTORS_OWN


def test_memory_goes_back_where_the_c_library_knows_how(monkeypatch: pytest.MonkeyPatch) -> None:
    resources.give_back()
    asked: list[int] = []
    monkeypatch.setattr(resources, "_trim", lambda: asked.append)
    resources.give_back()
    monkeypatch.setattr(resources, "_trim", lambda: None)
    resources.give_back()
    assert asked == [0]
