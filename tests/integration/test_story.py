"""Stories of tasks that died, told to their client and on the command line."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest

import starcore
from starcore import default
from starcore.errors import ArgumentValueError, CrashError, SessionLostError

from .processes import Place
from .stars import tried_star

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="run on Linux: for its /proc")


def dies_at_first(note: str) -> int:
    if not os.path.exists(note):
        open(note, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return 5


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_story_names_every_attempt_its_worker_and_its_cause(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tried_star(tmp_path, workers=1, slots=1) as star, star.client() as client:
        began = time.time()
        future = client.submit(dies_at_first, str(tmp_path / "note"))
        assert future.result(30) == 5
        story = client.story(future)
        assert [(record.what, record.attempt) for record in story][:5] == [
            *[("queued", 0), ("leased", 1), ("queued again", 1), ("leased", 2), ("returned", 2)]
        ]
        assert "SIGKILL" in story[2].text
        assert story[1].worker == client.status()["workers"][0]["name"]
        assert all(began - 1 <= record.time <= time.time() + 1 for record in story)
        assert story.task == future.task  # type: ignore[attr-defined]
        # Whose default it is does not matter: the future knows its own session.
        monkeypatch.setattr(default._Default, "client", None)
        assert starcore.story(future) and starcore.story(future).task == story.task
        assert default._Default.client is None

        doomed = client.submit(dies)
        with pytest.raises(CrashError) as caught:
            doomed.result(30)
        name = doomed.task  # type: ignore[attr-defined]
        if sys.version_info >= (3, 11):
            assert f"starcore story {name}" in "".join(traceback.format_exception(caught.value))
        assert f"task {name} (dies)" in star.log()

        where = ("--manager", star.address, "--join", str(star.join_file("client")))
        said = place.starcore("story", name, *where)
        assert said.returncode == 0, said.stderr
        assert said.stdout.splitlines()[0] == f"task {name} (dies)"
        assert said.stdout.count("SIGKILL") == 3
        told = json.loads(place.starcore("story", name, "--json", *where).stdout)
        assert [record["attempt"] for record in told["records"] if record["what"] == "leased"] == [1, 2, 3]

        missing = place.starcore("story", "00000000/1/0", *where)
        assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
        with pytest.raises(ArgumentValueError, match="no task"):
            client.story("00000000/1/0")


def test_future_is_asked_about_where_its_call_was_made(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with tried_star(tmp_path / "one", workers=1) as one, tried_star(tmp_path / "other", workers=1) as other:
        first, second = one.client(), other.client()
        monkeypatch.setattr(default._Default, "client", second)
        future = first.submit(pow, 2, 3)
        assert future.result(30) == 8
        assert [record.what for record in starcore.story(future)][-1] == "returned"
        with pytest.raises(ArgumentValueError, match="no task"):
            starcore.story(future.task)  # type: ignore[attr-defined]  # a name says nothing of a session
        first.shutdown()
        with pytest.raises(SessionLostError, match="shut down"):
            starcore.story(future)
        again = one.client()
        monkeypatch.setattr(default._Default, "client", again)
        assert starcore.story(future).task == future.task  # type: ignore[attr-defined]
