"""Every way to make a call, with a client's options or with others; what `Client` and its views have in common.

Not here: the session and its end (`api.py`), batches of `map` (`maps.py`), arrays cut and joined (`arrays.py`). Every
call checks its arguments where it is made, before anything is sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, cast, overload

import numpy as np

from starcore.client import arrays
from starcore.client.arguments import check_iterable, further_arguments, integer, number, positive, seconds_above_zero
from starcore.client.blocks import AutoFuture
from starcore.client.futures import BlockFuture, TaskFuture
from starcore.client.jobs import DetachedJob
from starcore.client.maps import Batches, Columns, Inputs
from starcore.client.naming import Array, Function, Naming, Owner, send
from starcore.client.progress import load_tqdm, watch_blocks, watch_results, watch_rows
from starcore.errors import ArgumentValueError
from starcore.pickling import Packed, Shipped, pack_array_call, pack_call, pack_calls, pack_value, small_call
from starcore.references import Ref, names_of

RETRIES_MAX = (1 << 32) - 1
PRIORITY_MAX = (1 << 31) - 1


class Calls(Naming):
    """What a client and its views with options have in common: every way to make a call."""

    # -- calls -----------------------------------------------------------------------------------------------

    def submit(self, fn: Function, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` on a worker.

        Parameters
        ----------
        fn : callable or str
            A function, pickled by value where it is the user's own; or ``"package.module:name"``, a function
            that workers have registered.
        *args, **kwargs
            Anything that can be pickled. Large arrays among them are borrowed, not copied: leave them unchanged
            until the future is done.

        Returns
        -------
        concurrent.futures.Future
            Of the function's result. Its exception is the function's own where its class is loaded here, else a
            `TaskError`; the remote traceback is the ``__cause__``.

        Raises
        ------
        ArgumentTypeError
            `fn` is no function, or something cannot be pickled.
        SessionLostError
            The client was shut down.
        """
        key, shipped = self._name(fn)
        head = None if kwargs else small_call(args)
        packed = pack_call(args, kwargs) if head is None else None
        session = self._client._live()
        record = self._record(session, key, shipped, () if packed is None else packed.refs)
        if packed is not None:
            return send(session, record, packed)
        future = TaskFuture(session, record)
        session.submit(record, cast("bytes", head), future)
        return future

    @overload
    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        detach: Literal[True],
        name: str | None = None,
    ) -> DetachedJob: ...

    @overload
    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        detach: Literal[False] = False,
        name: None = None,
    ) -> Iterator[Any]: ...

    @overload
    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        detach: bool = False,
        name: str,
    ) -> DetachedJob: ...

    @overload
    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        detach: bool,
        name: str | None = None,
    ) -> Iterator[Any] | DetachedJob: ...

    def map(
        self,
        fn: Function,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | str = "auto",
        buffersize: int | None = None,
        progress: bool = False,
        detach: bool = False,
        name: str | None = None,
    ) -> Iterator[Any] | DetachedJob:
        """Run `fn` on the items of the iterables, taken together; yield the results in order.

        Small calls travel in batches, each sized by the pace measured so far. Closing the iterator early cancels
        what is not yet running.

        Parameters
        ----------
        fn : callable or str
            As for `submit`.
        *iterables : iterable
            As for `map`: the shortest one ends it. Without a `buffersize` they are read at once.
        timeout : float, optional
            Seconds from this call after which the iterator raises TimeoutError.
        chunksize : int or "auto", default "auto"
            Calls in a batch. A batch is one task: a slot that dies costs all of it one attempt. With `retries` or
            a `timeout` among the options, which are each call's own, every call is a task of its own.
        buffersize : int, optional
            How many items may be taken from the iterables and not yet yielded, as in Python 3.14. They are then read
            only as far, by the iterating thread, and may be endless; and where results are taken slowly, no more
            than that are waiting. Tens of thousands keep a star of small calls busy. Without it all calls are made
            at once, and their results wait here for whoever takes them.
        progress : bool, default False
            Draw a bar of the results yielded, with tqdm.
        detach, name : bool, str, optional
            Return a `DetachedJob`, which outlives this process; see `detached`.

        Returns
        -------
        iterator
            Raises what a call raised when its turn comes.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            `fn` is no function, a size is below 1, or the first items cannot be pickled.
        SetupError
            `progress` was asked for, and there is no tqdm.
        """
        if chunksize != "auto":
            chunksize = positive("chunksize", chunksize)
        if detach or name is not None:
            view = self._detach(name, timeout=timeout, buffersize=buffersize, progress=progress)
            return view.map(fn, *iterables, chunksize=chunksize if isinstance(chunksize, int) else None)
        if any(self._options[:2]):
            chunksize = 1
        if buffersize is not None:
            buffersize = positive("buffersize", buffersize)
        deadline = None if timeout is None else time.monotonic() + number("timeout", timeout)
        key, shipped = self._name(fn)
        for iterable in iterables:
            check_iterable(iterable)
        inputs = Inputs(iterables, lazy=buffersize is not None)
        tqdm = load_tqdm() if progress else None
        session = self._client._live()
        record = self._record(session, key, shipped)

        def send_batch(columns: Columns, count: int) -> Future[Any]:
            packed = pack_calls(columns) if count > 1 else pack_call(tuple(column[0] for column in columns), {})
            needed = self._record(session, key, shipped, packed.refs) if packed.refs else record
            return send(session, needed, packed)

        batches = Batches(
            send_batch,
            inputs,
            chunksize=None if isinstance(chunksize, str) else chunksize,
            buffersize=buffersize,
            slots=lambda: session.slots,
        )
        results = batches.results(deadline)
        if tqdm is None:
            return results
        return watch_results(tqdm, results, inputs.total, record.job.function)

    @overload
    def submit_array(
        self,
        fn: Function,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
        out: Array | None = None,
        copy: bool = False,
        progress: bool = False,
        detach: Literal[True],
        name: str | None = None,
    ) -> DetachedJob: ...

    @overload
    def submit_array(
        self,
        fn: Function,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
        out: Array | None = None,
        copy: bool = False,
        progress: bool = False,
        detach: Literal[False] = False,
        name: None = None,
    ) -> Future[Any]: ...

    @overload
    def submit_array(
        self,
        fn: Function,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
        out: Array | None = None,
        copy: bool = False,
        progress: bool = False,
        detach: bool = False,
        name: str,
    ) -> DetachedJob: ...

    @overload
    def submit_array(
        self,
        fn: Function,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
        out: Array | None = None,
        copy: bool = False,
        progress: bool = False,
        detach: bool,
        name: str | None = None,
    ) -> Future[Any] | DetachedJob: ...

    def submit_array(
        self,
        fn: Function,
        array: Array,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        chunks: int | str | None = None,
        axis: int = 0,
        out: Array | None = None,
        copy: bool = False,
        progress: bool = False,
        detach: bool = False,
        name: str | None = None,
    ) -> Future[Any] | DetachedJob:
        """Run ``fn(array, *args, **kwargs)`` on a worker, or on blocks of the array on all workers.

        Parameters
        ----------
        fn : callable or str
            As for `submit`. It gets an array of its own, which it may write to.
        array : numpy.ndarray
            Any shape and any dtype but object; any layout, memmaps too. One larger than 128 KiB is borrowed, not
            copied: leave it unchanged until the future is done, or say `copy`.
        args, kwargs : sequence, mapping, optional
            Further arguments of `fn`.
        chunks : int or "auto", optional
            Cut the array into blocks of so many rows along `axis`, call `fn` on each, and join the answers along the
            same axis. For functions that work block by block. "auto" finds out how many rows; see the notes.
        axis : int, default 0
            The axis that `chunks` cuts.
        out : numpy.ndarray, optional
            Writable memory for the answer, of its shape and dtype; answers are received straight into it. It is
            then the future's result. It may share no memory with `array`, and holds nothing certain until the
            future is done.
        copy : bool, default False
            Take a snapshot of the array now.
        progress : bool, default False
            Draw a bar of the blocks done, or with "auto" of the rows, with tqdm; needs `chunks`.
        detach, name : bool, str, optional
            Return a `DetachedJob`, which outlives this process, when the manager has all of it; see `detached`.

        Returns
        -------
        concurrent.futures.Future
            Of the function's result; with `chunks`, of the joined array. The first block that fails fails it, and
            cancels the others. With "auto" its attribute `chunks` says of how many rows a block is now.

        Raises
        ------
        ArgumentTypeError
            `fn` is no function, `array` or `out` no array, or its dtype is object.
        ArgumentValueError
            `chunks` is 0 or beyond an axis that is not empty, there is no such axis, or `out` cannot be written,
            overlaps or does not fit.
        SetupError
            `progress` was asked for, and there is no tqdm.

        Notes
        -----
        ``chunks="auto"`` measures the first blocks: the pace `u` of the upload and `d` of the download, in seconds
        per byte, and the time ``f + w * b`` of a call on `b` bytes, by blocks of two sizes. Of the sizes 64 KiB,
        128 KiB, ... 16 MiB it takes the one for which the `B` bytes that are left take least on `S` slots, each
        block costing ``c = 1 ms`` beside ::

            max(B*u, (B*w + B/b*f) / S, B*d) + B/b*c + b*(u + w + d) + f

        that is the slowest of the three stages, the cost of many blocks, and the time in which the stages fill and
        run empty, which large blocks make long. Blocks are cut one after the other as answers come, and measured
        all the while; the last ones are smaller, so that all slots end together. About as many are under way as
        keep every stage busy, and at most 4 a slot and 16 more. An array of up to 64 KiB is one block. The log of
        "starcore.client" says at level INFO what was measured and chosen.
        """
        if detach or name is not None:
            view = self._detach(name, out=out is not None, progress=progress)
            return view.submit_array(fn, array, args=args, kwargs=kwargs, chunks=chunks, axis=axis)
        key, shipped = self._name(fn)
        if isinstance(array, Ref):
            if chunks is not None or copy or progress:
                raise ArgumentValueError("a Ref stands for a whole value: it can be neither cut nor copied here")
            further, named = further_arguments(args, kwargs)
            return self._send_into(out, key, shipped, pack_call((array, *further), named))
        arrays.check_array(array)
        if out is not None:
            arrays.check_out(out, array)
        further, named = further_arguments(args, kwargs)
        auto = isinstance(chunks, str) and chunks == "auto"
        if chunks is not None:
            axis = arrays.check_axis(array, axis)
        pieces = None if chunks is None or auto else arrays.plan(array, cast("Any", chunks), axis)
        if progress and chunks is None:
            raise ArgumentValueError("progress counts blocks, and without chunks there is only one call")
        tqdm = load_tqdm() if progress else None
        session = self._client._live()
        refs = pack_call(further, named).refs if further or named else ()
        record = self._record(session, key, shipped, refs)
        if copy:
            array = arrays.snapshot(array)

        def pack(block: Array) -> Packed:
            return pack_array_call(block, further, named)

        trust = self._client._trust
        if auto:
            growing = AutoFuture(session, record, array, pack, axis=axis, out=out, trust=trust)
            self._client._growing.add(growing)
            growing.begin(None if tqdm is None else watch_rows(tqdm, growing, record.job.function))
            return growing
        if pieces is None:
            return send(session, record, pack(array), out)
        packs = [pack(arrays.block(array, piece, axis)) for piece in pieces]
        joiner = arrays.Joiner(pieces, axis, out=out, trust=trust)
        whole = BlockFuture([TaskFuture(session, record) for _ in pieces], joiner)
        session.submit_many(record, packs, whole.parts)
        if tqdm is not None:
            watch_blocks(tqdm, whole, record.job.function)
        whole.watch()
        return whole

    def run(self, inputs: Iterable[Array], function: Function | None = None) -> list[Any]:
        """Call a function on each of a list of arrays and wait for the results, in order.

        Parameters
        ----------
        inputs : iterable of numpy.ndarray
            One array a task.
        function : callable or str, optional
            As for `submit`; without it, the one function that the workers have registered.

        Returns
        -------
        list
            The results, in the order of the inputs.
        """
        check_iterable(inputs)
        items = [arrays.check_array(item) for item in inputs]
        futures = [self.submit_array(function or "", item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def put(self, value: Any, *, writable: bool = False, copy: bool = False) -> Ref:
        """Share a value among many calls: its bytes go once to each worker that needs them, not with every call.

        Parameters
        ----------
        value : object
            Anything that can be pickled; made for large arrays, and for containers of them. Arrays of any dtype and
            layout are borrowed, not copied: leave them unchanged until the `Ref` is released.
        writable : bool, default False
            Give each task a copy of its own that it may write to. Otherwise all slots of a worker look at the same
            memory, and the arrays are read-only.
        copy : bool, default False
            Take a snapshot of an array now.

        Returns
        -------
        Ref
            To be passed to calls of this client in place of the value: as an argument, inside containers, or in the
            closure of a function. Its `release`, its end as a context manager, or its garbage collection lets the
            value go at the client, the manager and the workers once the tasks that were given it are done.

        Raises
        ------
        ArgumentTypeError
            The value cannot be pickled.
        SessionLostError
            The client was shut down.
        """
        session = self._client._live()
        if copy and isinstance(value, np.ndarray):
            value = arrays.snapshot(value)
        packed = pack_value(value)
        names_of(packed.refs, session)
        size = packed.body_bytes or len(packed.head)
        return Ref(session.put(packed), size, session, session.puts.let_go, writable=writable, inner=packed.refs)

    # -- about calls -----------------------------------------------------------------------------------------

    def options(self, *, retries: int | None = None, timeout: float | None = None, priority: int | None = None) -> View:
        """Return a view of this client whose calls have these options; the others stay as they are here.

        Parameters
        ----------
        retries : int, optional
            How often a call that raised is tried again.
        timeout : float, optional
            Seconds that a call may run on its slot before it fails with `TaskTimeoutError`.
        priority : int, optional
            Calls with a higher one go first; 0 is the default, and it may be negative.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            An option that cannot be.
        """
        old_retries, old_timeout, old_priority = self._options
        return View(
            self._client,
            (
                old_retries if retries is None else integer("retries", retries, 0, RETRIES_MAX),
                old_timeout if timeout is None else seconds_above_zero("timeout", timeout),
                old_priority if priority is None else integer("priority", priority, -PRIORITY_MAX - 1, PRIORITY_MAX),
            ),
        )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Leave when the calls are done; one left by Ctrl-C cancels them."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._client._interrupt()
        self.shutdown(wait=True)
        return False

    def _send_into(self, out: Array | None, key: Any, shipped: Shipped | str, packed: Packed) -> Future[Any]:
        """Send a call whose answer goes to `out`, if that is given."""
        if out is not None:
            arrays.check_out(out, np.empty(0))
        session = self._client._live()
        return send(session, self._record(session, key, shipped, packed.refs), packed, out)


class View(Calls):
    """A client's calls with options of their own; it shares the client's session. Made by `options`."""

    def __init__(self, client: Owner, options: tuple[int, float, int]) -> None:
        self._client = client
        self._options = options

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down the client that this is a view of."""
        self._client.shutdown(wait, cancel_futures=cancel_futures)
