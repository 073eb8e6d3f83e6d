"""Both ends of a session over a network that loses, repeats and reorders, among crashes."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.codec import decode
from protocol.generations import MASK
from tests.protocol.world import PAGES, World

CAUSES = st.sampled_from(["system_reset", "snapshot_restore", "overflow", "request"])
INDEX = st.integers(0, 2**16)


class Sessions(RuleBasedStateMachine):
    """Whatever happens: no stale publish, nothing older alive after RETIRED, and progress."""

    @initialize(
        epoch=st.sampled_from([1, MASK - 1]),
        generation=st.sampled_from([0, MASK - 1]),
        attached=st.booleans(),
    )
    def begin(self, epoch, generation, attached):
        self.world = World(epoch, generation)
        if attached:
            self.world.settle()

    @rule(choices=st.lists(INDEX, min_size=5, max_size=40))
    def work_is_done(self, choices):
        """What may happen next on a kind day happens, in some order."""
        world = self.world
        for choice in choices:
            kinds = world.possible()
            if kinds:
                world.do(kinds[choice % len(kinds)], choice)

    @precondition(lambda self: self.world.machine.settled and not self.world.must_bump)
    @rule(
        page=st.integers(0, PAGES - 1),
        state_word=st.integers(0, 1),
        slots=st.lists(st.sampled_from([0, 2, 4]), min_size=1, max_size=3),
        heat=st.integers(0, 9),
    )
    def records_are_hot(self, page, state_word, slots, heat):
        self.world.request(page, state_word, slots, heat)

    @rule(page=st.integers(0, PAGES - 1), told=st.booleans())
    def code_is_written(self, page, told):
        self.world.write(page)
        if told:
            self.world.do_machine(self.world.machine.cancel_page(page))

    @rule(cause=CAUSES, remap=st.booleans())
    def memory_is_remapped_or_everything_retired(self, cause, remap):
        if remap:
            self.world.remap()
        else:
            self.world.retire(cause)

    @rule(
        towards=st.sampled_from(["translator", "machine"]),
        what=st.sampled_from(["lose", "repeat", "repeat", "overtake"]),
        index=INDEX,
    )
    def a_message_is_lost_repeated_or_overtakes(self, towards, what, index):
        world = self.world
        queue = world.to_translator if towards == "translator" else world.to_machine
        if not queue:
            return
        index %= len(queue)
        if what == "lose":
            queue.pop(index)
        else:
            world.deliver(towards, index, keep=what == "repeat")

    @precondition(lambda self: self.world.translator)
    @rule(outcome=st.sampled_from(["crash", "full"]), index=INDEX)
    def a_worker_fails(self, outcome, index):
        model = self.world.translator
        assert model is not None
        if not model.jobs:
            self.world.take()
        if model.jobs:
            self.world.finish(index % len(model.jobs), outcome)

    @rule(index=INDEX)
    def a_deadline_passes(self, index):
        if self.world.timers:
            self.world.fire(index % len(self.world.timers))

    @rule(kind=st.sampled_from(["crash", "lost", "overflow", "swap", "engine"]))
    def something_rare_happens(self, kind):
        world = self.world
        machine = world.machine
        match kind:
            case "crash" if world.translator is None:
                world.start_translator()
            case "crash":
                world.crash_translator()
            case "lost":
                world.do_machine(machine.disconnected())
            case "overflow":
                if world.to_translator and world.to_translator[-1][0] == world.connection:
                    _, sent = world.to_translator.pop()
                    world.do_machine(machine.send_failed(decode(sent)))
            case "swap":
                other = "llvm" if machine.backend == "reference" else "reference"
                world.do_machine(machine.swap(other))
            case _:
                world.do_machine(machine.ask_engine("engine"))

    @invariant()
    def published_code_is_of_present_bytes(self):
        if hasattr(self, "world"):
            for message, content in self.world.published:
                assert message.epoch == self.world.epoch
                assert content == self.world.content[message.page]

    def teardown(self):
        """Once the world is kind, whatever came before, a translation gets published."""
        if not hasattr(self, "world"):
            return
        world = self.world
        for _ in range(3):  # the first may find that the translator is another one
            world.settle()
            world.request(0, 0, [10])
            world.settle()
        assert any(message.entries[0].slot == 10 for message, _ in world.published)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, report_multiple_bugs=False
)
