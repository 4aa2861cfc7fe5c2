"""What all benchmarks share: contenders, turns, questions, rows with their intervals, CPU accounts.

A *contender* is the star, the limit or a rival, with the whole of its processes running. Contenders that are
compared live at the same time and take turns, round by round, forwards and backwards, so that a drift of the
machine meets all of them alike. The star and the limit have the machine to themselves (*pairs*); the rivals come
afterwards and take turns with the star, since some of them are not quiet when they rest.

A *row* is what one contender made of one measure: the median over its rounds with a 90 % interval; the star's row
also has the medians of its ratios to everyone else, each taken round by round. What a row has to reach stands in
targets.py; how rows are kept and shown, in report.py.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.tasks import Array

ROOT = Path(__file__).resolve().parent.parent
INTERVAL = 0.90
PAIRS, PAIRS_QUICK = 15, 3
TURNS, TURNS_QUICK = 3, 1
"""Rounds of the star against the limit, and of the star against the rivals."""


class Contender(Protocol):
    """One way to have functions run elsewhere; some can do only a part of this."""

    name: str

    def pids(self) -> dict[str, list[int]]:
        """Give the processes other than this one, by role: manager, worker."""
        ...

    def arrays(self, arrays: Sequence[Array], depth: int) -> list[Array]:
        """`plus_one` of each, with at most `depth` in flight."""
        ...

    def submit(self, values: Sequence[Any]) -> list[Any]:
        """`nothing` of each, submitted one by one, then gathered."""
        ...

    def map(self, values: Sequence[Any]) -> list[Any]:
        """`nothing` of each by the batch call."""
        ...

    def round_trip(self, value: Any) -> Any:
        """`nothing` of one value, waited for."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """One contender's one round: what was measured, the CPU seconds of each role meanwhile, a hash of the answers."""

    value: float
    cpu: dict[str, float] = field(default_factory=dict)
    answers: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median and interval of the star's value to another contender's, round by round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender made of one measure."""

    benchmark: str
    measure: str
    contender: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    ratios: dict[str, Ratio] = field(default_factory=dict)
    """Only in the star's row: to each other contender."""
    cpu: dict[str, float] = field(default_factory=dict)
    """Median CPU seconds of each role, per `cpu_per`."""
    cpu_per: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    answers: str = ""
    """A hash of the checked answers of the last round."""


@dataclass(frozen=True, slots=True)
class Question:
    """One measure: how a contender is asked for one round of it, and what its rows say about themselves."""

    measure: str
    unit: str
    ask: Callable[[Contender], Sample]
    cpu_per: str = ""
    cpu_measure: str = ""
    """Where it is given, the CPU seconds of all processes together are a measure of that name too."""
    parameters: dict[str, Any] = field(default_factory=dict)


def digest(*answers: Any) -> str:
    """Hash answers: arrays by their bytes, anything else by its repr."""
    whole = hashlib.sha256()
    for answer in answers:
        data = getattr(answer, "data", None)
        whole.update(data if isinstance(data, memoryview) else repr(answer).encode())
    return whole.hexdigest()[:12]


# -- CPU ---------------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads, without its children; 0 when it has gone."""
    try:
        if pid == os.getpid():
            return time.process_time()
        if sys.platform == "linux":
            # clock_getcpuclockid(3): nanoseconds, where /proc and psutil count ticks of 10 ms.
            return time.clock_gettime((~pid << 3) | 2)
        times = psutil.Process(pid).cpu_times()
    except (OSError, psutil.Error):
        return 0.0
    return float(times.user + times.system)


def family(pids: dict[str, list[int]]) -> dict[str, list[int]]:
    """Add to each role the descendants of its processes (a worker's slots), once each, and this process as client."""
    whole: dict[str, list[int]] = {"client": [os.getpid()]}
    for role, members in pids.items():
        found = list(members)
        for pid in members:
            try:
                found += [child.pid for child in psutil.Process(pid).children(recursive=True)]
            except psutil.Error:
                continue
        whole[role] = list(dict.fromkeys(found))
    return whole


def measured(contender: Contender, work: Callable[[], Any], amount: float) -> tuple[float, dict[str, float], Any]:
    """Do the work: seconds, the CPU seconds of each role per `amount`, and what the work gave."""
    members = family(contender.pids())
    before = {role: sum(map(cpu_seconds, pids)) for role, pids in members.items()}
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    spent = {role: sum(map(cpu_seconds, pids)) - before[role] for role, pids in members.items()}
    return seconds, {role: cpu / amount for role, cpu in spent.items()}, answer


# -- rounds and rows -----------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the median, with at least 90 % confidence, from order statistics; of few values, their whole range.

    Between the k-th smallest and the k-th largest of n independent values the median lies with probability
    1 - 2 P(Binomial(n, 1/2) < k): for n = 15 and k = 4, 96 %. Below n = 5 no k reaches 90 %.
    """
    ordered = sorted(values)
    count, missed, rank = len(ordered), 0.0, 0
    while rank < count // 2:
        missed += 2 * math.comb(count, rank) / 2**count
        if missed > 1 - INTERVAL:
            break
        rank += 1
    outside = max(rank - 1, 0)
    return ordered[outside], ordered[-1 - outside]


def rounds(
    contenders: Sequence[Contender], measure: Callable[[Contender], Sample], count: int
) -> dict[str, list[Sample]]:
    """Let each contender warm up, then take `count` turns, every second round in the opposite order.

    A rival that fails is left out from then on, and the reason kept; the star and the limit may not fail.
    """
    samples: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(-1, count):
        for contender in contenders if number % 2 == 0 or number < 0 else reversed(contenders):
            if contender.name not in samples:
                continue
            try:
                sample = measure(contender)
            except Exception as error:
                if contender.name not in RIVALS:
                    raise
                leave_out(contender.name, f"failed: {type(error).__name__}: {error}")
                del samples[contender.name]
                continue
            if number >= 0:
                samples[contender.name].append(sample)
    return samples


def rows(
    samples: dict[str, list[Sample]],
    *,
    benchmark: str,
    measure: str,
    unit: str,
    cpu_per: str = "",
    parameters: dict[str, Any] | None = None,
) -> list[Row]:
    """One row a contender: the median of its rounds and its interval; the star's ratios, round by round."""
    return [
        Row(
            benchmark=benchmark,
            measure=measure,
            contender=name,
            unit=unit,
            value=statistics.median(sample.value for sample in own),
            low=interval([sample.value for sample in own])[0],
            high=interval([sample.value for sample in own])[1],
            rounds=len(own),
            ratios=_ratios(samples) if name == "star" else {},
            cpu={role: statistics.median(sample.cpu[role] for sample in own) for role in own[0].cpu},
            cpu_per=cpu_per if own[0].cpu else "",
            parameters=parameters or {},
            answers=own[-1].answers,
        )
        for name, own in samples.items()
    ]


def _ratios(samples: dict[str, list[Sample]]) -> dict[str, Ratio]:
    ratios = {}
    for name, own in samples.items():
        if name != "star" and all(sample.value for sample in own):
            each = [star.value / other.value for star, other in zip(samples["star"], own, strict=True)]
            ratios[name] = Ratio(statistics.median(each), *interval(each))
    return ratios


def question_rows(benchmark: str, question: Question, samples: dict[str, list[Sample]]) -> list[Row]:
    """The rows of a question's answers, with those of the CPU of all processes together where it asks for them."""
    common: dict[str, Any] = {"benchmark": benchmark, "parameters": question.parameters}
    made = rows(samples, measure=question.measure, unit=question.unit, cpu_per=question.cpu_per, **common)
    if question.cpu_measure:
        sums = {name: [Sample(sum(sample.cpu.values())) for sample in own] for name, own in samples.items()}
        made += rows(sums, measure=question.cpu_measure, unit=question.cpu_per, **common)
    return made


def joined(pairs: Sequence[Row], turns: Sequence[Row]) -> list[Row]:
    """Add the rivals' rows to those of the pairs, and the star's ratios to them to the star's own rows."""
    later = {(row.measure, row.contender): row.ratios for row in turns}
    known = {(row.measure, row.contender) for row in pairs}
    made = [replace(row, ratios=row.ratios | later.get((row.measure, row.contender), {})) for row in pairs]
    return made + [row for row in turns if (row.measure, row.contender) not in known]


def compete(
    benchmark: str,
    questions: Sequence[Question],
    names: Sequence[str],
    *,
    workers: int,
    pairs: int,
    turns: int,
) -> list[Row]:
    """Ask every question of the star and the limit alone, `pairs` times, then of star and rivals, `turns` times."""
    made: list[Row] = []
    with contenders([name for name in names if name not in RIVALS], workers=workers) as own:
        for question in questions:
            made += question_rows(benchmark, question, rounds(own, question.ask, pairs))
        star = [contender for contender in own if contender.name == "star"]
        later: list[Row] = []
        with contenders([name for name in names if name in RIVALS], workers=workers) as rivals:
            for question in questions if rivals else ():
                later += question_rows(benchmark, question, rounds([*star, *rivals], question.ask, turns))
    return joined(made, later)


# -- contenders ----------------------------------------------------------------------------------------------------


MAKERS = {
    "star": ("benchmarks.star", "Star"),
    "limit": ("benchmarks.limit", "LimitStar"),
    "dask": ("benchmarks.rivals.dask_star", "DaskStar"),
    "pool": ("benchmarks.rivals.pool", "Pool"),
    "loky": ("benchmarks.rivals.loky_pool", "LokyPool"),
    "scaler": ("benchmarks.rivals.scaler_star", "ScalerStar"),
    "ray": ("benchmarks.rivals.ray_node", "RayNode"),
}
"""Loaded only when asked for."""
CONTENDERS = tuple(MAKERS)
RIVALS = CONTENDERS[2:]
left_out: dict[str, str] = {}
"""Rivals that were asked for and are not there, or failed, and why; the table says so below."""


def leave_out(name: str, reason: str) -> None:
    """Note why a rival is not there; the first reason stays."""
    line = " ".join(reason.split())
    left_out.setdefault(name, line if len(line) <= 200 else line[:200] + "…")
    print(f"{name} is left out: {left_out[name]}", file=sys.stderr)


def child_environment(**more: str) -> dict[str, str]:
    """Give this process's environment to one that is to find the benchmarks, with one BLAS thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | more


@contextmanager
def contenders(names: Sequence[str], *, workers: int) -> Iterator[list[Contender]]:
    """Start those that are asked for; leave out, with the reason, each rival that is not installed or does not work."""
    with ExitStack() as stack:
        made: list[Contender] = []
        for name in names:
            module, maker = MAKERS[name]
            try:
                contender = stack.enter_context(getattr(import_module(module), maker)(workers=workers))
                if name in RIVALS:
                    assert contender.round_trip(7) == 7, "a wrong answer"
                made.append(contender)
            except ModuleNotFoundError as error:
                if name not in RIVALS:
                    raise
                leave_out(name, f"not installed ({error})")
            except Exception as error:
                if name not in RIVALS:
                    raise
                leave_out(name, f"does not work here: {type(error).__name__}: {error}")
        yield made
