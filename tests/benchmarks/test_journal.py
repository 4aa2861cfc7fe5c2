"""The benchmark of the journal runs small and gives rows to believe."""

from __future__ import annotations

from benchmarks import journal


def test_every_measure_of_a_journal_is_taken() -> None:
    made = journal.run(quick=True, count=300, rounds=1)
    assert tuple(row.measure for row in made) == journal.MEASURES
    assert all(row.contender == "star" and row.value > 0 and row.answers for row in made)


def test_without_the_star_there_is_nothing_to_measure() -> None:
    assert journal.run(names=("dask",)) == []
