"""The local star's own bookkeeping; what it does with real processes is in tests/integration/test_local_star.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from starcore import LocalStar, local
from starcore.errors import ArgumentValueError, SetupError


@pytest.fixture
def star(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStar:
    """A star without workers."""
    monkeypatch.setenv("STARCORE_RUNTIME_DIR", str(tmp_path / "run"))
    return LocalStar(workers=0)


def test_children_inherit_nothing_that_names_another_star(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STARCORE_JOIN", "STARCORE_MANAGER", "STARCOMPUTE_CLIENT_KEY_PATH"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = local._environment()
    assert "elsewhere" not in environment.values()
    assert environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("workers", "slots"), [(-1, 1), (1, 0)])
def test_star_of_impossible_size_is_refused_before_anything_is_made(workers: int, slots: int) -> None:
    with pytest.raises(ArgumentValueError, match=f"not {workers} and {slots}"):
        LocalStar(workers=workers, slots=slots)


def test_star_without_workers_has_addresses_and_leaves_no_runtime_file(star: LocalStar, tmp_path: Path) -> None:
    with star:
        assert star.address == f"127.0.0.1:{star.client_port}" != star.worker_address
        assert star.join_file("client").stat().st_mode & 0o777 == 0o600
        assert star.pids["workers"] == []
        assert not list(tmp_path.rglob("manager-*"))
        with star.client() as client:
            assert client.slots == 0
    assert not star.directory.exists()


def test_closing_is_done_once_and_ends_all_use(star: LocalStar) -> None:
    star.close()
    star.close()
    for use in (star.client, star.start_worker):
        with pytest.raises(SetupError, match="closed"):
            use()


def test_forked_child_lets_go_of_the_lifeline_and_closes_nothing(star: LocalStar) -> None:
    with star:
        child = os.fork()
        if child == 0:
            star.close()
            held = True
            try:
                os.fstat(star._lifeline_end)
            except OSError:
                held = False
            os._exit(1 if held or not star.directory.exists() else 0)
        assert os.waitpid(child, 0)[1] == 0
        with star.client() as client:
            assert client.status()["workers"] == []
