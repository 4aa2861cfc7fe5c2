"""The data plane: bodies on their way through the manager, as tokens and lengths. Pure; it never sees a byte.

A `Flow` is one body between two links. Its source is the link it comes from (a client's argument, a worker's
answer, a client's blob), its sink the link it goes to; either may be absent for a while::

    source ══ CHUNK ══▶ Receiving.take ─▶ held ─▶ Sending.next ══ CHUNK ══▶ sink
           ◀─ GRANT ─── pull: at most a window ahead of `begin` ◀── GRANT ──

    0 ......... begin ......... end ......... granted ......... size
      forwarded       held here     on its way         not asked for

What the sink asks for is asked of the source, never more than `relay_window_bytes` beyond what was forwarded, and
for all flows into one link together never more than `relay_link_bytes`, nor than what is left of the budget for all
links (`budget.py`): flows beyond that are *thirsty* and wait. So the held bytes are bounded however slow sinks are.
Chunks leave as they came, cut only where a grant cuts them.

On one link bytes never come twice, so a sink that comes back and asks for what has already left makes the flow
*rewind*: the source is asked for its next attempt, from that offset.

A `kept` flow has no sink: it is a blob, whose chunks stay until the blob goes and are lent to `shared` flows.

A flow with a `lender` sends what that keeps, from whatever offset it is asked for, and as often.

A `spread` flow is a shared value that passes through to *readers*, one a worker. They move together, at most
`value_window_bytes` apart; what all have read goes at once. Who comes late, or is left behind, waits until the
others are through: then the source is asked for its next attempt, from the first byte that anybody still needs::

    begin ── slowest reader ──── fastest reader ── end ── granted ── size        one pass
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from starcore.events import ChunkReceived, Spooled, Token
from starcore.manager.budget import WINDOW_BYTES_MIN, Budget, Shares
from starcore.manager.flows import FIRST_ATTEMPT, Flow, Port
from starcore.manager.limits import Limits
from starcore.manager.outbox import Outbox
from starcore.manager.state import Leased
from starcore.messages import Abort, Grant
from starcore.streams import Receiving, Sending

FLOOR_BYTES_MAX = 64 << 10
"""A link may have so much under way whatever others hold: one more peer costs about as much for its TLS."""
FLOORS_MIN = 1024
"""Of a budget so many floors, or more."""
PARCHED_LINKS = 8
"""So many links that wait for others' bytes to go are looked at in one turn."""


class Relay:
    """Every flow, and the bytes that they hold here."""

    def __init__(self, outbox: Outbox, limits: Limits, budget: Budget | None = None) -> None:
        budget = budget or Budget()
        self._outbox = outbox
        self._limits = limits
        self._budget_bytes = budget.relay_bytes
        self._floor_bytes = min(FLOOR_BYTES_MAX, limits.relay_link_bytes, budget.relay_bytes // FLOORS_MIN)
        self._windows = Shares(budget.window_bytes, WINDOW_BYTES_MIN)
        self.promised_bytes = 0
        """Granted and not forwarded, over all links."""
        self.parched: dict[int, None] = {}
        """Links with flows that wait for the others' bytes to go."""
        self._ports: dict[int, Port] = {}
        self.held_bytes = 0
        self.spooled_bytes = 0
        """What of it lies in files."""
        self.arrived: list[Leased] = []
        """Leases whose arguments have left whole, until somebody takes them."""

    # -- links -----------------------------------------------------------------------------------------------

    def open_link(self, link: int, first_window_bytes: int, *, shared: bool = True) -> int:
        """A peer was welcomed; it takes `first_window_bytes` unasked. Over a link that is `shared` flows take turns.

        Returns what it may send unasked.
        """
        sending = Sending(first_window_bytes, turns=1) if shared else Sending(first_window_bytes)
        window = self._windows.take(self._limits.first_window_bytes)
        self._ports[link] = Port(sending, Receiving(window), window)
        return window

    def close_link(self, link: int) -> None:
        """A link is gone: its flows lose that end, and keep the other."""
        port = self._ports.pop(link, None)
        if port is None:
            return
        self._windows.give(port.window)
        self.promised_bytes -= port.promised + port.reading
        self.parched.pop(link, None)
        outbound = list(port.outbound.values())
        for flow in outbound:  # all of them, before one that goes stirs the source of another
            self._unplace(flow)
        for flow in outbound:
            self._unread(flow)
        for flow in port.inbound.values():
            flow.source = 0
            if flow.spread:
                flow.promised = 0
            self._account(flow)
        for sink in {flow.sink for flow in port.inbound.values()}:
            self._quench(sink)

    def blocked(self, link: int) -> None:
        """The link takes no chunks until it is writable."""
        if link in self._ports:
            self._ports[link].open = False

    def writable(self, link: int) -> None:
        """The link takes chunks."""
        port = self._ports.get(link)
        if port is not None:
            port.open = True
            self._pump(link, port)

    def among(self, link: int) -> None:
        """A small task or its answer leaves on a link, among the chunks of others."""
        port = self._ports[link]
        if port.outbound:
            port.sending.among(self._outbox.now)

    # -- flows -----------------------------------------------------------------------------------------------

    def expect(self, flow: Flow, link: int, *, window: bool = True) -> None:
        """Take a flow's bytes from this link, from where they ended before."""
        port = self._ports[link]
        flow.source = link
        port.inbound[flow.source_stream] = flow
        if flow.end or not window:
            port.receiving.resume(flow.source_stream, flow.source_attempt, flow.size, flow.end)
        else:
            port.receiving.open(flow.source_stream, flow.source_attempt, flow.size)
        self._account(flow)
        if flow.spread:
            self.stir(flow)
        elif flow.sink:
            self._pull(flow)
        elif flow.kept:
            self._keep_on(flow, port.receiving)

    def aim(self, flow: Flow, link: int, stream: int, attempt: int, *, window: bool = False) -> None:
        """Send a flow's bytes over this link, as its receiver asks for them."""
        if flow.sink:
            self.unaim(flow)
        port = self._ports[link]
        flow.sink, flow.sink_stream, flow.sink_attempt = link, stream, attempt
        port.outbound[stream] = flow
        flow.placed = window and flow.begin == 0
        port.sending.open(stream, attempt, flow.size, window=flow.placed, offered=0)
        self._account(flow)
        if flow.placed:
            self._go_on(flow)

    def lend(self, flow: Flow, link: int, stream: int) -> Flow:
        """Send a kept flow's bytes over this link; the new flow ends alone."""
        lent = self.loan(flow)
        self.aim(lent, link, stream, FIRST_ATTEMPT)
        return lent

    @staticmethod
    def loan(flow: Flow) -> Flow:
        """Return a flow that sends what a kept flow has; it ends alone."""
        return Flow(flow.size, end=flow.size, held=deque(flow.held), shared=True, lender=flow)

    def unaim(self, flow: Flow) -> None:
        """The sink has no more use for it; another may come."""
        port = self._ports.get(flow.sink)
        if port is not None:
            port.sending.close(flow.sink_stream)
            port.outbound.pop(flow.sink_stream, None)
        sink = flow.sink
        self._unplace(flow)
        self._quench(sink)
        self._unread(flow)

    def close_source(self, flow: Flow) -> None:
        """The source has given all, or all that it will."""
        port = self._ports.get(flow.source)
        if port is not None:
            port.receiving.close(flow.source_stream)
            if flow.spread:
                port.dry.pop(flow, None)
                self._weigh(flow)
            port.inbound.pop(flow.source_stream, None)
        flow.source = 0
        self._account(flow)

    def end(self, flow: Flow) -> None:
        """The body has arrived, or nobody wants it: both ends are closed, what is held goes."""
        self.close_source(flow)
        self.unaim(flow)
        self._discard(flow, flow.end)

    def abort(self, flow: Flow, code: int, reason: str) -> None:
        """End a flow before its time, and tell both ends."""
        if flow.source:
            self._outbox.send(flow.source, Abort(flow.source_stream, flow.source_attempt, code, reason))
        if flow.sink:
            self._outbox.send(flow.sink, Abort(flow.sink_stream, flow.sink_attempt, code, reason))
        self.end(flow)

    def inbound(self, link: int, stream: int) -> Flow | None:
        """Return the flow that comes from this link under this name."""
        port = self._ports.get(link)
        return port.inbound.get(stream) if port else None

    def outbound(self, link: int, stream: int) -> Flow | None:
        """Return the flow that goes to this link under this name."""
        port = self._ports.get(link)
        return port.outbound.get(stream) if port else None

    # -- what comes in ---------------------------------------------------------------------------------------

    def chunk(self, event: ChunkReceived) -> Flow | None:
        """Take a chunk, and send it on where its sink waits for it. Returns the flow, None for a stale chunk."""
        port, stream = self._ports.get(event.link), event.stream
        flow = port.inbound.get(stream) if port else None
        if not (port and flow and port.receiving.take(stream, event.attempt, event.offset, event.length)):
            self._outbox.drop(event.token)
            return None
        flow.held.append((event.offset, event.length, event.token))
        flow.end += event.length
        self.held_bytes += event.length
        if flow.kept:
            self._keep_on(flow, port.receiving)
        elif flow.spread:
            self._spread(flow)
        elif flow.placed:
            self._go_on(flow)
        return flow

    def keep(self, flow: Flow) -> None:
        """Pull a flow whole, and keep it."""
        flow.kept = True
        self._keep_on(flow, self._ports[flow.source].receiving)

    def spill(self, flow: Flow) -> None:
        """Have the chunk of a kept flow that came last lie in a file."""
        offset, length, token = flow.held[-1]
        spooled = Spooled(flow.number, offset, length, size=flow.size)
        flow.held[-1] = offset, length, spooled
        self.spooled_bytes += length
        self._outbox.spill(token, spooled)

    def restore(self, flow: Flow, token: Token) -> Flow:
        """Keep a body that lies whole in a file, of an earlier manager's."""
        flow.held.append((0, flow.size, token))
        flow.end, flow.kept = flow.size, True
        self.held_bytes += flow.size
        self.spooled_bytes += flow.size
        return flow

    def grant(self, link: int, grant: Grant) -> None:
        """Take a sink's GRANT: it says how far, and at first from where."""
        port = self._ports[link]
        flow = port.outbound.get(grant.stream)
        if flow is None or grant.attempt != flow.sink_attempt:
            return
        port.sending.grant(grant)
        position = port.sending.position(grant.stream)
        if flow.origin is not None:
            self._seat(flow, flow.origin, position)
            return
        placed, flow.placed, flow.asked = flow.placed, True, True
        if not placed or position > flow.begin:
            if flow.begin <= position <= flow.end:
                self._discard(flow, position)
            else:
                self._rewind(flow, position)
        self._account(flow)
        self._go_on(flow)

    def irrigate(self) -> None:
        """Let flows ask that waited until other links' bytes were gone; a few links at a time, in turn."""
        for link in list(islice(self.parched, PARCHED_LINKS)):
            del self.parched[link]
            port = self._ports.get(link)
            if port is None:
                continue
            self._quench(link)
            self._moisten(port)
            if port.thirsty or port.dry:
                self.parched[link] = None

    # -- one source, many sinks ------------------------------------------------------------------------------

    def read(self, origin: Flow, link: int, stream: int) -> Flow:
        """Send what comes of a spread flow over this link, too, as its receiver asks for it."""
        reader = Flow(origin.size, shared=True, origin=origin)
        origin.readers[reader] = None
        self.aim(reader, link, stream, FIRST_ATTEMPT)
        return reader

    def stir(self, origin: Flow) -> None:
        """Let a spread flow go on: let readers join, let go of what all have read, ask for more."""
        seated = [reader for reader in origin.readers if reader.placed]
        within = [reader for reader in seated if origin.begin <= reader.begin <= origin.end]
        if seated and not within and not any(reader.joined for reader in seated):
            self._rewind(origin, min(reader.begin for reader in seated))
            within = [reader for reader in seated if reader.begin == origin.begin]
        fresh = [reader for reader in within if not reader.joined]
        for reader in fresh:
            self._join(reader, origin)
        joined = [reader for reader in seated if reader.joined]
        last = min((reader.begin for reader in joined), default=origin.end)
        if last > origin.begin:
            self._discard(origin, last)
        if origin.source:
            if joined:
                self._draw(origin, joined)
            self._weigh(origin)
        for reader in fresh:
            port = self._ports.get(reader.sink)
            if port is not None:
                self._pump(reader.sink, port)

    def _seat(self, reader: Flow, origin: Flow, position: int) -> None:
        """A reader says from where it reads."""
        if not reader.placed or position > reader.begin:
            reader.placed, reader.joined = True, False
            reader.held.clear()
            reader.begin = reader.end = position
            self._ports[reader.sink].sending.offer(reader.sink_stream, position)
        self.stir(origin)

    def _join(self, reader: Flow, origin: Flow) -> None:
        reader.joined = True
        reader.held = deque(piece for piece in origin.held if piece[0] + piece[1] > reader.begin)
        reader.end = origin.end
        if reader.held:
            self._ports[reader.sink].sending.offer(reader.sink_stream, reader.held[0][0] + reader.held[0][1])

    def _spread(self, origin: Flow) -> None:
        """A chunk came: every reader that has joined gets it."""
        piece = origin.held[-1]
        for reader in [reader for reader in origin.readers if reader.joined]:
            if reader.joined and reader.end < origin.end:  # not left behind, or joined again, meanwhile
                reader.held.append(piece)
                reader.end = origin.end
                self._go_on(reader)
        self.stir(origin)

    def _draw(self, origin: Flow, joined: list[Flow]) -> None:
        """Ask the source for more, a window ahead of the slowest reader; one that holds all others up is left behind.

        It waits then until the bytes that it needs come by again, when the others have what they want.
        """
        port = self._ports[origin.source]
        receiving = port.receiving
        window = self._limits.value_window_bytes
        granted = receiving.granted(origin.source_stream)
        needed = max(self._ports[reader.sink].sending.granted(reader.sink_stream) for reader in joined)
        front = max(reader.begin for reader in joined)
        if front == origin.end == granted < min(needed, origin.size) and granted - origin.begin >= window:
            for reader in joined:
                if reader.begin < front - window // 2:
                    reader.joined = False
                    reader.held.clear()
                    reader.end = reader.begin
                    self._ports[reader.sink].sending.offer(reader.sink_stream, reader.begin)
            self._discard(origin, min(reader.begin for reader in joined if reader.joined))  # nobody joins there again
            self.stir(origin)
            return
        limit = origin.begin + window
        room = granted + self._room(port.reading)
        if limit > room:
            port.dry[origin] = None
            self.parched[origin.source] = None
        self._ask(origin, receiving, min(limit, room), needed, self._least())

    def _weigh(self, origin: Flow) -> None:
        """Count what a spread flow was promised against its source's link, and let others ask where there is room."""
        port = self._ports[origin.source]
        before, promised = origin.promised, 0
        if origin.source_stream in port.receiving:
            promised = port.receiving.granted(origin.source_stream) - origin.begin
        port.reading += promised - before
        self.promised_bytes += promised - before
        origin.promised = promised
        if promised < before:
            self._moisten(port)

    def _moisten(self, port: Port) -> None:
        """Let values that wait for others from the same link ask, as far as there is room."""
        while port.dry and self._room(port.reading) > 0:
            flow = next(iter(port.dry))
            del port.dry[flow]
            self.stir(flow)
            if flow in port.dry:
                return

    def _unread(self, reader: Flow) -> None:
        """A reader is gone, or through."""
        origin, reader.origin = reader.origin, None
        if origin is not None:
            reader.joined = False
            del origin.readers[reader]
            self.stir(origin)

    # -- checks ----------------------------------------------------------------------------------------------

    def check(self, flows: Iterable[Flow]) -> None:
        """Assert the invariants over all the flows that somebody else knows."""
        flows = list(flows)
        assert self.held_bytes == sum(flow.end - flow.begin for flow in flows if not flow.shared), "held bytes"
        known = set(map(id, flows))
        for flow in flows:
            assert 0 <= flow.begin <= flow.end <= flow.size, flow
            assert flow.shared or sum(length for _, length, _ in flow.held) >= flow.end - flow.begin, flow
            assert not flow.source or self._ports[flow.source].inbound[flow.source_stream] is flow
            assert not flow.sink or self._ports[flow.sink].outbound[flow.sink_stream] is flow
        assert self.promised_bytes == sum(port.promised + port.reading for port in self._ports.values())
        for link, port in self._ports.items():
            assert not (port.thirsty or port.dry) or link in self.parched, link
            port.sending.check()
            port.receiving.check()
            assert len(port.sending) == len(port.outbound), link
            assert len(port.receiving) == len(port.inbound), link
            if not (port.inbound or port.outbound):
                assert not (port.promised or port.placed or port.thirsty or port.reading or port.dry), link
                continue
            assert known.issuperset(map(id, port.inbound.values())), link
            assert known.issuperset(map(id, port.outbound.values())), link
            assert port.promised == sum(flow.promised for flow in port.outbound.values()), link
            assert port.placed == sum(flow.promised for flow in port.outbound.values() if flow.placed), link
            assert all(flow.sink == link for flow in port.thirsty), link
            assert port.reading == sum(flow.promised for flow in port.inbound.values() if flow.spread), link
            assert all(flow.source == link and flow.spread for flow in port.dry), link

    # -- private ---------------------------------------------------------------------------------------------

    def _go_on(self, flow: Flow) -> None:
        """Offer what is held to the sink, and ask the source for more."""
        port = self._ports[flow.sink]
        if flow.held:
            offset, length, _ = flow.held[0]
            port.sending.offer(flow.sink_stream, offset + length)
            self._pump(flow.sink, port)
        self._pull(flow)

    def _pump(self, link: int, port: Port) -> None:
        """Send what the link takes at a time, of the streams whose turn it is."""
        if port.open:
            for piece in port.sending.chunks(self._outbox.now):
                port.open = False
                self._forward(link, port, *piece)

    def _forward(self, link: int, port: Port, stream: int, attempt: int, offset: int, length: int) -> None:
        """Send one chunk, and ask for what has room now that it is gone."""
        flow = port.outbound[stream]
        begin, _, token = flow.held[0]
        self._outbox.chunk(link, stream, attempt, offset, length, token, offset - begin)
        self._discard(flow, offset + length)
        self._account(flow)
        if flow.held:
            port.sending.offer(stream, flow.held[0][0] + flow.held[0][1])
        if flow.leased is not None and flow.forwarded:
            self.arrived.append(flow.leased)
        if flow.shared and flow.forwarded:
            self.unaim(flow)
            return
        if flow.origin is not None:
            self.stir(flow.origin)
        self._pull(flow)
        self._quench(link)

    def _pull(self, flow: Flow) -> None:
        """Ask the source for what the sink waits for, a window ahead."""
        if not flow.source or not flow.placed:
            return
        port = self._ports[flow.sink]
        receiving = self._ports[flow.source].receiving
        needed = port.sending.granted(flow.sink_stream)
        if not needed:
            return
        limit = min(needed, flow.begin + self._limits.relay_window_bytes)
        room, least = self._room(port.promised, port), self._least()
        if room < least and (spare := self._spare(port)) > 0:
            room, least = max(room, spare), min(least, self._floor_bytes // 4)
        room += receiving.granted(flow.source_stream)
        if limit > room:
            port.thirsty[flow] = None
            self.parched[flow.sink] = None
        self._ask(flow, receiving, min(limit, room), needed, least)
        self._account(flow)

    def _ask(self, flow: Flow, receiving: Receiving, limit: int, needed: int, least: int) -> None:
        """Grant the source bytes up to `limit`, in few grants: of `least` bytes, or of all it needs."""
        granted = receiving.granted(flow.source_stream)
        step = min(limit, needed) - granted
        if step < min(needed - granted, least):
            return
        grant = receiving.grant(flow.source_stream, max(0, step))
        if grant is not None:
            self._outbox.send(flow.source, grant)

    def _keep_on(self, flow: Flow, receiving: Receiving) -> None:
        """Ask for more of a kept flow."""
        self._ask(flow, receiving, flow.end + self._limits.relay_window_bytes, flow.size, self._least())

    def _least(self) -> int:
        return min(self._limits.relay_window_bytes, max(self._left(), self._floor_bytes)) // 4

    def _left(self) -> int:
        return max(0, self._budget_bytes - self.promised_bytes)

    def _room(self, promised: int, port: Port | None = None) -> int:
        """What a link may be promised beyond this, so that it has no more than is left for all others; a little always.

        Two halves: after it took one, the other is left.
        """
        share = (self._left() - promised) // 2
        room = max(min(self._limits.relay_link_bytes - promised, share), self._floor_bytes - promised)
        return self._spare(port) if room <= 0 and port is not None else room

    def _spare(self, port: Port) -> int:
        """What its sink has no memory for yet must not hold up what it has: of that, a little may always come."""
        return self._floor_bytes - port.placed

    def _quench(self, link: int) -> None:
        """Let thirsty flows ask, now that the link's budget has room."""
        port = self._ports.get(link)
        while port is not None and port.thirsty and self._room(port.promised, port) > 0:
            flow = next(iter(port.thirsty))
            del port.thirsty[flow]
            before = port.promised
            self._pull(flow)
            if flow in port.thirsty and port.promised == before:
                return

    def _rewind(self, flow: Flow, offset: int) -> None:
        """Have the bytes from `offset` on once more (or skip to it): the source's next attempt."""
        self._discard(flow, flow.end)
        if flow.lender is not None:
            flow.held = deque(piece for piece in flow.lender.held if piece[0] + piece[1] > offset)
            flow.begin, flow.end = offset, flow.size
            return
        flow.begin = flow.end = offset
        flow.source_attempt += 1
        if flow.source:
            receiving = self._ports[flow.source].receiving
            receiving.resume(flow.source_stream, flow.source_attempt, flow.size, offset)

    def _discard(self, flow: Flow, position: int) -> None:
        """Let go of what lies before `position`."""
        if not flow.shared:
            self.held_bytes -= position - flow.begin
        flow.begin = position
        while flow.held and flow.held[0][0] + flow.held[0][1] <= position:
            _, length, token = flow.held.popleft()
            if not flow.shared:
                self._outbox.drop(token)
                if type(token) is Spooled:
                    self.spooled_bytes -= length

    def _unplace(self, flow: Flow) -> None:
        """Forget the sink. What is held for it goes: it may ask from another offset, or never."""
        port = self._ports.get(flow.sink)
        if port is not None:
            self._promise(port, flow, 0)
            port.thirsty.pop(flow, None)
        flow.promised = flow.promised_placed = flow.sink = 0
        flow.placed = flow.asked = False
        if flow.begin and not flow.shared:
            self._discard(flow, flow.end)

    def _account(self, flow: Flow) -> None:
        """Count against the sink's link what was granted to the source and not forwarded."""
        port = self._ports.get(flow.sink)
        if port is None:
            return
        granted = self._ports[flow.source].receiving.granted(flow.source_stream) if flow.source else flow.end
        self._promise(port, flow, 0 if flow.shared else max(0, granted - flow.begin))

    def _promise(self, port: Port, flow: Flow, promised: int) -> None:
        """Count it in the sums of the sink's link, which may have ten thousand bodies: each chunk asks for them."""
        placed = promised if flow.placed else 0
        port.placed += placed - flow.promised_placed
        port.promised += promised - flow.promised
        self.promised_bytes += promised - flow.promised
        flow.promised, flow.promised_placed = promised, placed
