"""The agent: what a translator does with jobs that another host is to do.

The problem: a machine may want its code made elsewhere, but only a process beside it can read its
memory, place code where it may be executed and not written, and say what has been retired. So the
translator beside the machine stays what it is, and hands a job out - bytes in, code back - to a
remote translator instead of a worker of its own. `Workplaces` is the pool to the broker: it knows
from a job's backend where it is done.

Invariants:
- What comes back is an outcome like a worker's: the broker checks it, confirms the counters, and
  places the code, or does not. Nothing that comes by network is placed here.
- Both sides prove their keys; without keys there is no connection. When the other side's key is no
  longer authorized here, the connection ends, nothing that it sends is taken any more, and the
  machines that have code of it begin another epoch (`Workplaces.distrusted`).
- The broker's loop never waits for a remote translator; with `else=` a job that cannot be sent, or
  is lost, is done here by that backend, otherwise it is refused as "try later".
- A connection exists for each spelling of the backend that was asked for, `AGENTS` at most.

Read next: `agent_session.py` (what is said when), `agent_server.py` (the other side), `pool.py`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from jit_proc.agent_session import KEY_AGAIN, AgentSession, Finished, Terms
from jit_proc.job import AnyJob, Job, Refusal
from jit_proc.pool import Pool, Result
from protocol import engine_image, keys
from protocol.backends import name_of, parse
from protocol.errors import UserError
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.riscv.identity import isa_hash
from protocol.transport import Client, Server

NAME: Final = "remote"
AGENTS: Final = 8
LOOK: Final = 0.5  # seconds between two looks at the keys that are trusted

_V2: Final = frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3: Final = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])

log = get_logger("agent")


def cpu_level() -> str:
    """What code for this host may use, without asking a compiler: a level of x86-64."""
    lines = engine_image.host_cpu().splitlines()
    flags = {word for line in lines if line.startswith("flags=") for word in line[6:].split()}
    if not flags >= _V2:
        return "x86-64"
    return "x86-64-v3" if flags >= _V3 else "x86-64-v2"


def terms(backend: str) -> Terms:
    """What both sides must agree to, and what this one wants."""
    return Terms(LAYOUT_HASH, isa_hash(), _program(), os.uname().machine, cpu_level(), backend)


def _program() -> str:
    """Hash of all that decides code besides a job and its CPU: the program, and its compiler."""
    digest = hashlib.blake2b(digest_size=16, person=b"coldboot program")
    root = Path(__file__).resolve().parent.parent
    parts = [engine_image.llvmlite_version(), *engine_image.source_texts()]
    for folder in (root / "jit_proc" / "backends", root / "protocol"):
        for path in sorted(folder.glob("*.py")):
            parts += [path.name, path.read_text(encoding="utf-8")]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    return digest.hexdigest()


class Agent:
    """One connection to a remote translator."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings`: options of the backend. Raises UserError when keys or address are wrong."""
        own = keys.load(Path(settings.get("keys") or keys.default_folder()))
        host = settings.get("host", "")
        endpoint = f"tcp://{f'[{host}]' if ':' in host else host}:{settings.get('port', '')}"
        self.local = settings.get("else", "")
        self._own, self._peer = own, own.of(settings.get("peer", ""))
        self._trusted, self._looked = True, time.monotonic()
        self.distrusted = False
        """Whether its key was removed, and nobody has taken note of that yet."""
        self.client = Client(endpoint, own, self._peer)
        self.session = AgentSession(
            terms(settings.get("use", "llvm")), lambda: secrets.randbits(64) | 1, time.monotonic()
        )
        self.endpoint = endpoint
        self._said = ""

    def turn(self) -> list[Finished]:
        """Hear what came, do what is due, send what is to be sent; what became of jobs."""
        now = time.monotonic()
        session = self.session
        trusted = self._look(now)
        for message in self.client.receive():
            if trusted:
                session.receive(message, now)
        if self.client.poll(0).disconnected:
            session.disconnected(self.client.trouble, now)
        session.tick(now)
        self._send(now)
        self._tell()
        finished, session.finished = session.finished, []
        return finished

    def _look(self, now: float) -> bool:
        """Whether the other side's key is still authorized here; if not, it is not heard."""
        if now - self._looked >= LOOK:
            self._looked, before = now, self._trusted
            self._trusted = self._peer in self._own.authorized()
            if before and not self._trusted:
                place = self._own.folder / keys.AUTHORIZED
                self.session.distrust(f"its key was removed from {place}", now)
                self._send(now)
                self.client.part()
                self.distrusted = True
        return self._trusted

    def _send(self, now: float) -> None:
        session = self.session
        if session.outbox and not session.up and self._trusted:
            self.client.try_again()
        messages, session.outbox = session.outbox, []
        for message in messages:
            if not self.client.send(message):
                session.send_failed(message, now)

    def _tell(self) -> None:
        """Changes, once each."""
        session = self.session
        says = session.state if session.up else session.trouble or self.client.trouble
        if says == self._said:
            return
        self._said = says
        if session.up:
            log.info("remote_connected", endpoint=self.endpoint)
        elif says:
            log.warning("remote_unusable", endpoint=self.endpoint, reason=says)

    def close(self) -> None:
        """Say goodbye."""
        self.session.close("the agent ends")
        self._send(time.monotonic())
        self.client.close()


def _else(backend: str) -> str:
    return parse(backend)[1].get("else", "")


class Workplaces:
    """The workers of this host and of others, as one pool."""

    def __init__(self, pool: Pool, server: Server) -> None:
        """`server`: its `poll` is to end when something comes from another host."""
        self._pool = pool
        self._server = server
        self._agents: dict[str, Agent] = {}
        self._failed: dict[str, tuple[str, float]] = {}  # why, and until when nobody tries again
        self._finished: list[Result] = []

    # --- what is the pool's ----------------------------------------------------------------------

    @property
    def count(self) -> int:
        """See `Pool`."""
        return self._pool.count

    @property
    def started(self) -> int:
        """See `Pool`."""
        return self._pool.started

    @property
    def died(self) -> int:
        """See `Pool`."""
        return self._pool.died

    def start(self) -> None:
        """See `Pool.start`."""
        self._pool.start()

    def filenos(self) -> list[int]:
        """See `Pool.filenos`."""
        return self._pool.filenos()

    # --- what is of both -------------------------------------------------------------------------

    def has_room(self, backend: str) -> bool:
        """Whether a job for this backend may be handed in now."""
        if name_of(backend) != NAME:
            return self._pool.idle > 0
        agent = self._agent(backend)
        if agent is None:
            return not _else(backend) or self._pool.idle > 0  # to be refused, or done here
        if agent.local and not agent.session.up:
            return self._pool.idle > 0
        return agent.session.room(time.monotonic()) > 0

    def submit(self, ticket: int, job: AnyJob) -> None:
        """Have a job done, where its backend says; workers are started if it is here."""
        if not isinstance(job, Job) or name_of(job.backend) != NAME:
            self._here(ticket, job)
            return
        agent = self._agent(job.backend)
        if agent is None and (local := _else(job.backend)):
            self._here(ticket, replace(job, backend=local))
        elif agent is None:
            refusal = Refusal("queue_full", self._failed[job.backend][0][:1000])
            self._finished.append(Result(ticket, refusal))
        elif agent.local and not agent.session.up:
            self._here(ticket, replace(job, backend=agent.local))
        else:
            agent.session.submit(ticket, job, time.monotonic())
            self._hear(agent)

    def abandon(self, ticket: int) -> bool:
        """See `Pool.abandon`."""
        before = len(self._finished)
        self._finished = [one for one in self._finished if one.ticket != ticket]
        if len(self._finished) < before:
            return True
        sent = any(agent.session.abandon(ticket) for agent in self._agents.values())
        return sent or self._pool.abandon(ticket)

    def collect(self) -> list[Result]:
        """See `Pool.collect`."""
        for agent in self._agents.values():
            self._hear(agent)
        finished, self._finished = self._finished, []
        return [*finished, *self._pool.collect()]

    def distrusted(self) -> list[str]:
        """Backends, as they are spelt, whose hosts' keys were removed since this was asked last."""
        gone = [word for word, agent in self._agents.items() if agent.distrusted]
        for word in gone:
            self._agents[word].distrusted = False
        return gone

    def deadline(self) -> float | None:
        """See `Pool.deadline`."""
        due = [agent.session.deadline() for agent in self._agents.values()]
        if self._finished:
            due.append(time.monotonic())
        pool = self._pool.deadline()
        return min(due if pool is None else [*due, pool], default=None)

    def counters(self) -> dict[str, int]:
        """For STATS: jobs sent to other hosts, and lost there, and connections made."""
        total: dict[str, int] = {}
        for agent in self._agents.values():
            for name, value in agent.session.counts.items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """See `Pool.close`."""
        self._close(list(self._agents))
        self._pool.close()

    # --- agents ----------------------------------------------------------------------------------

    def _here(self, ticket: int, job: AnyJob) -> None:
        self._pool.start()
        self._pool.submit(ticket, job)

    def _hear(self, agent: Agent) -> None:
        for done in agent.turn():
            if done.lost and agent.local:
                self._here(done.ticket, replace(done.job, backend=agent.local))
            else:
                self._finished.append(Result(done.ticket, done.outcome))

    def _agent(self, backend: str) -> Agent | None:
        """The connection for this spelling; None if there can be none."""
        before, until = self._failed.get(backend, ("", 0.0))
        if backend not in self._agents and time.monotonic() >= until:
            if len(self._agents) >= AGENTS:
                self._close([word for word, one in self._agents.items() if not one.session.running])
            try:
                self._agents[backend] = agent = Agent(parse(backend)[1])
            except UserError as error:
                # Of the last one is enough.
                self._failed = {backend: (error.text, time.monotonic() + KEY_AGAIN)}
                if error.text != before:
                    log.error("remote_impossible", backend=backend, reason=error.text)
            else:
                self._failed.pop(backend, None)
                self._server.attend(agent.client)
                self._hear(agent)
        return self._agents.get(backend)

    def _close(self, words: Iterable[str]) -> None:
        for word in words:
            agent = self._agents.pop(word)
            self._server.desert(agent.client)
            agent.close()
