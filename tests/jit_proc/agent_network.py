"""An agent and a remote translator without sockets: the two state machines over a bad network.

A `Network` is driven by a list of small numbers, drawn by hypothesis or at random: what happens
next, to whom. Invariants are checked at every step; `settle` then lets the network be good and
checks that every ticket came back exactly once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import count

from jit_proc.agent_clients import JOBS, AgentSessions, Reply, Task
from jit_proc.agent_session import AgentSession, Finished, Terms
from jit_proc.job import Crash, Job, Outcome, Refusal, Region, Times
from protocol.codec import CodecError, decode, encode
from protocol.messages import Message

TERMS = Terms("layout", "isa", "program", "x86_64", "x86-64-v2", "llvm")
STEPS = 12


def region_of(job: Job) -> Region:
    """What a job's code is here: it tells which job it is, in one or several messages."""
    size = 40_000 if job.page % 5 == 0 else 64
    code = (job.page.to_bytes(4, "little") * (size // 4))[:size]
    return Region(code, ((0, 0),), ((0, 4),), 1, 1, Times())


class Network:
    """Some agents, one remote translator, and what is on its way between them."""

    def __init__(self, agents: int = 2) -> None:
        self.now = 0.0
        self._numbers = count(1)
        self._pages = count(1)
        self.remote = self._new_remote()
        self.agents = [
            AgentSession(TERMS, lambda: next(self._numbers), self.now) for _ in range(agents)
        ]
        self.peers = [f"peer {number}".encode() for number in range(agents)]
        self.out: list[deque[bytes]] = [deque() for _ in range(agents)]  # to the remote
        self.back: list[deque[bytes]] = [deque() for _ in range(agents)]
        self.working: list[Task] = []
        self.jobs: dict[int, tuple[int, Job]] = {}
        self.abandoned: set[int] = set()
        self.came: Counter[int] = Counter()
        self.whole = 0

    def _new_remote(self) -> AgentSessions:
        return AgentSessions(TERMS, ("x86_64",), next(self._numbers), complaint=lambda _: "")

    def step(self, what: int, choice: int) -> None:
        """One event."""
        number = choice % len(self.agents)
        agent = self.agents[number]
        match what % STEPS:
            case 0:
                if agent.room(self.now):
                    page = next(self._pages)
                    job = Job(page, bytes(4096), (0,), 0)
                    self.jobs[page] = number, job
                    agent.submit(page, job, self.now)
            case 1:
                tickets = [t for t, (of, _) in self.jobs.items() if of == number]
                if tickets and agent.abandon(tickets[choice % len(tickets)]):
                    self.abandoned.add(tickets[choice % len(tickets)])
            case 2 | 3:
                self.deliver_to_remote(number)
            case 4 | 5:
                self.deliver_to_agent(number)
            case 6:
                if len(self.working) < 3 and (task := self.remote.take()) is not None:
                    self.working.append(task)
            case 7 | 8:
                if self.working:
                    self.finish(self.working.pop(choice % len(self.working)), choice)
            case 9:
                self.now += (0.1, 0.5, 3.0, 12.0, 70.0)[choice % 5]
            case 10:
                self.cut(number)
            case 11:
                if choice % 3 == 0:  # the remote translator is started anew
                    self.remote, self.working = self._new_remote(), []
                    for one in range(len(self.agents)):
                        self.cut(one)
                elif self.back[number]:  # garbage in place of a message
                    self.back[number].popleft()
                    agent.receive(CodecError("malformed", "garbage"), self.now)
        self.look()

    def look(self) -> None:
        """Let everybody do what is due; check what came back."""
        self.remote.tick(self.now)
        for number, agent in enumerate(self.agents):
            agent.tick(self.now)
            messages, agent.outbox = agent.outbox, []
            self.out[number].extend(encode(message) for message in messages)
            finished, agent.finished = agent.finished, []
            for one in finished:
                self.check(number, one)
            assert agent.running <= JOBS
        for task in self.remote.abandoned:
            if task in self.working:
                self.working.remove(task)
        self.remote.abandoned.clear()

    def check(self, number: int, one: Finished) -> None:
        of, job = self.jobs[one.ticket]
        assert (number, job) == (of, one.job)
        assert one.ticket not in self.abandoned
        self.came[one.ticket] += 1
        assert self.came[one.ticket] == 1
        if isinstance(one.outcome, Region):
            assert one.outcome == region_of(job)
            self.whole += 1
        else:
            assert isinstance(one.outcome, Refusal)

    def send(self, replies: Sequence[Reply]) -> None:
        for peer, message in replies:
            self.back[self.peers.index(peer)].append(encode(message))

    def deliver_to_remote(self, number: int) -> None:
        if self.out[number]:
            message: Message = decode(self.out[number].popleft())
            self.send(self.remote.receive(self.peers[number], message, self.now))

    def deliver_to_agent(self, number: int) -> None:
        if self.back[number]:
            self.agents[number].receive(decode(self.back[number].popleft()), self.now)

    def finish(self, task: Task, choice: int) -> None:
        outcome: Outcome = region_of(task.job)
        if choice % 7 == 5:
            outcome = Crash("killed")
        elif choice % 7 == 6:
            outcome = Refusal("unsupported", "no")
        self.send(self.remote.done(task, outcome))

    def cut(self, number: int) -> None:
        """The connection is lost, and all that is on its way."""
        self.out[number].clear()
        self.back[number].clear()
        self.agents[number].disconnected("cut", self.now)
        self.remote.lost(self.peers[number])

    def settle(self) -> None:
        """From here on all is well: every job comes back, and nothing is left anywhere."""
        for _ in range(5000):
            if all(agent.up and not agent.running for agent in self.agents):
                break
            self.now += 0.05
            for number in range(len(self.agents)):
                self.deliver_to_remote(number)
                self.deliver_to_agent(number)
            while (task := self.remote.take()) is not None:
                self.send(self.remote.done(task, region_of(task.job)))
            for task in self.working:
                self.send(self.remote.done(task, region_of(task.job)))
            self.working = []
            self.look()
        assert all(agent.up and not agent.running for agent in self.agents)
        assert set(self.came) | self.abandoned == set(self.jobs)
