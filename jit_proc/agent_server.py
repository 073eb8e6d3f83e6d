"""`coldboot translator --listen tcp://HOST:PORT`: a translator for agents on other hosts.

The problem: it does jobs, for whoever proves a key that is authorized here, and nothing else. It
maps no memory, keeps no epoch, and cannot place code: an answer that comes too late is the agent's
to drop.

Invariants:
- One thread, one loop, which waits for nobody.
- Workers and content store are those of a local translator (`pool.py`, `content_store.py`).
- Who is no longer authorized is told so, and its jobs are dropped, within `TURN` seconds or so.
- Who is served when is decided in `agent_clients.py`; what cannot be sent to an agent ends it.

Read next: `agent_clients.py`, `agent.py` (the other side), docs/remote.md.
"""

from __future__ import annotations

import secrets
import time
from itertools import count

from jit_proc import backends, content_store
from jit_proc.agent import terms
from jit_proc.agent_clients import AgentSessions, Reply, Task
from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.job import Outcome, Region
from jit_proc.service_options import Options, make_pool
from jit_proc.store import EngineStore
from protocol.keys import Keys
from protocol.logs import get_logger
from protocol.transport import Server
from protocol.waiting import Bell

HOSTS = ("x86_64",)
DRAIN_LIMIT = 2.0  # seconds that jobs under way are given when the service is told to end
TURN = 1.0  # seconds at most until agents are looked after

log = get_logger("remote")


class JobServer:
    """A remote translator: `run` until `stop`."""

    def __init__(self, options: Options, listen: str, keys: Keys) -> None:
        """Listen. Raises UserError when that cannot be."""
        self.server = Server(listen, keys)
        self.sessions = AgentSessions(
            terms(""), HOSTS, secrets.randbits(64), complaint=backends.complaint
        )
        engines = EngineStore(options.cache)
        # Of another lifter nothing is known that could stand in a key.
        mode = options.store if options.lifter == DEFAULT_LIFTER else "off"
        self.kept = content_store.made(engines.folder, mode, options.store_size)
        self.pool = make_pool(options)
        self._running: dict[int, Task] = {}
        self._tickets = count(1)
        self._watched: set[int] = set()
        self.bell = Bell()
        self._stopping = ""
        self._stop_at = 0.0
        self.server.watch(self.bell.fileno())

    def stop(self, reason: str) -> None:
        """End: finish what is under way, at most `DRAIN_LIMIT` seconds; told twice, at once.

        Safe in a signal handler.
        """
        now = time.monotonic()
        self._stop_at = now if self._stopping else now + DRAIN_LIMIT
        self._stopping = reason
        self.bell.ring()

    def run(self) -> None:
        """Serve until told to stop."""
        while not (self._stopping and (not self._running or time.monotonic() >= self._stop_at)):
            self._watch()
            ready = self.server.poll(self._timeout())
            if self.bell.fileno() in ready.fds:
                self.bell.quiet()
            if ready.messages:
                for peer, message in self.server.receive():
                    self._send(self.sessions.receive(peer, message, time.monotonic()))
            for peer in self.server.revoked():
                self.sessions.lost(peer)
            self.sessions.tick(time.monotonic())
            for result in self.pool.collect():
                task = self._running.pop(result.ticket, None)
                if task is not None:
                    self._done(task, result.outcome)
            self._abandon()
            if not self._stopping:
                self._feed()

    def close(self) -> None:
        """Say goodbye to all agents, end the workers, give everything back."""
        counts = {name: value for name, value in self.sessions.counters() if value}
        kept = self.kept.counters() if self.kept is not None else {}
        log.info("work_summed", **counts, keys_refused=self.server.refused, **kept)
        self._send(self.sessions.close(self._stopping or "the remote translator ends"))
        self.pool.close()
        self.server.close()
        if self.kept is not None:
            self.kept.close()
        self.bell.close()

    def _timeout(self) -> float:
        now = time.monotonic()
        due = [now + TURN]
        pool = self.pool.deadline()
        if pool is not None:
            due.append(pool)
        if self._stopping:
            due.append(self._stop_at)
        return max(0.0, min(due) - now)

    def _watch(self) -> None:
        wanted = set(self.pool.filenos())
        for fd in self._watched - wanted:
            self.server.unwatch(fd)
        for fd in wanted - self._watched:
            self.server.watch(fd)
        self._watched = wanted

    def _send(self, replies: list[Reply]) -> None:
        for peer, message in replies:
            if not self.server.send(peer, message):
                self.sessions.lost(peer)
                return  # all of a list are for one peer, but for the last words

    def _feed(self) -> None:
        while self.pool.idle:
            task = self.sessions.take()
            if task is None:
                return
            kept = self.kept.find(task.job) if self.kept is not None else None
            if kept is not None:
                self._send(self.sessions.done(task, kept.region))
                continue
            ticket = next(self._tickets)
            self._running[ticket] = task
            self.pool.start()
            self.pool.submit(ticket, task.job)

    def _done(self, task: Task, outcome: Outcome) -> None:
        if isinstance(outcome, Region):
            if self.kept is not None:
                self.kept.keep(task.job, outcome)
            log.info(
                "job_done",
                session=task.session,
                id=task.id,
                instructions=outcome.instructions,
                bytes=len(outcome.code),
                ms=sum(outcome.times[:-1]) / 1000,
            )
        self._send(self.sessions.done(task, outcome))

    def _abandon(self) -> None:
        """Workers need not finish what nobody waits for."""
        dropped, self.sessions.abandoned = self.sessions.abandoned, []
        for ticket, task in list(self._running.items()):
            if task in dropped:
                del self._running[ticket]
                self.pool.abandon(ticket)
