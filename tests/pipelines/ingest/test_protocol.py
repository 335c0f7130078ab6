"""The rules of checkpoints and offsets as a state machine: whatever happens to workers, group, store and encoder.

At every moment the store holds a part of what an undisturbed run finds, every fragment that it has counted is counted
once, and nothing is committed that it does not know. In the end it holds exactly what an undisturbed run finds.

To see a failure's shortest sequence, give `PHASES` a `Phase.shrink`; it takes minutes.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import hypothesis
import pytest
import redis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipelines.checkpoints import NEW_STREAM, Checkpoint
from pipelines.log.topic_reader import Extent
from pipelines.review.audit import audit
from pipelines.settings import AppConfig, WorkerSettings
from pipelines.store.store import Store
from pipelines.types import Coordinates, Participant, Record, UtteranceSentiment
from tests.pipelines.protocol import (
    STREAM,
    Deed,
    Encoder,
    Log,
    Member,
    Moment,
    Plan,
    Trap,
    fragments_of,
    heard,
    sent_as,
)
from tests.pipelines.stored import default
from tests.pipelines.working import Voice, found
from tests.servers import OwnRedis

pytestmark = pytest.mark.slow  # workers that crash and recover, many times

PHASES = (Phase.generate,)
MEMBERS_MAX = 3
CALLS_MAX = 3
DEATHS_MAX = 3
"""More processes that die over one record would make it a dead letter."""
STEP_MAX_S = 0.4
HEALED_MAX_S = 40.0
STEPS = st.integers(1, 4)
"""How long a trouble lasts."""
PLANS: tuple[Plan, ...] = get_args(Plan)
NUMBER = st.integers(0, 11)
COMMANDS = st.sampled_from([0, 2, 5, 12, 30, None, None])
"""How many commands the members send to the store before something else happens; None: all that they have to."""


@dataclass(slots=True)
class Talk:
    """A call under way: how many of its records were sent, into which partition."""

    call_id: str
    plan: Plan
    partition: int
    expected: list[tuple[object, ...]] = field(repr=False)
    sent: int = 0


class Protocol(RuleBasedStateMachine):
    """The group, its members, the store and the encoder; each rule moves one of them, chosen by number.

    What may be chosen follows from what was chosen before, never from how far the members have come meanwhile.
    """

    def __init__(self, voice: Voice, server: OwnRedis) -> None:
        super().__init__()
        self.voice, self.server = voice, server
        self.loop, self.onlookers = asyncio.Runner(), asyncio.Runner()
        """The workers stand still while somebody looks at what they have done."""
        self.raw = redis.Redis.from_url(server.url)
        self.raw.flushall()
        self.look = Store.connect(server.url)
        self.encoder = Encoder()
        self.members: list[Member] = []
        self.talks: list[Talk] = []
        self.pending: list[tuple[int, Callable[[], None]]] = []
        """What ends a trouble, after so many more steps."""
        self.deaths = 0
        self.away = self.broken = False

    @initialize(
        partitions=st.integers(2, 3),
        in_flight=st.sampled_from([1, 3, 16]),
        ahead=st.sampled_from([1, 4]),
        delay_s=st.sampled_from([0.0, 0.05]),
        batch=st.sampled_from([1, 3, 16]),
        plan=st.sampled_from(PLANS),
    )
    def begin(self, *, partitions: int, in_flight: int, ahead: int, delay_s: float, batch: int, plan: Plan) -> None:
        self.log, self.batch = Log(partitions), batch
        worker = WorkerSettings(
            utterances_in_flight=in_flight,
            ahead_per_track=ahead,
            commit_delay_s=delay_s,
            commit_interval_s=0.01,
            retry_max_s=0.05,
            stalled_after_s=0.3,
        )
        self.config = AppConfig(stream=STREAM, worker=worker)
        self.join()
        self.join()
        for partition in range(partitions):
            self.log.hand_over(partition, self.members[0].seat)
        self.call(plan, 0, 5, 5)

    # What is sent.

    @precondition(lambda self: len(self.talks) < CALLS_MAX)
    @rule(plan=st.sampled_from(PLANS), partition=NUMBER, sent=st.integers(1, 15), commands=COMMANDS)
    def call(self, plan: Plan, partition: int, sent: int, commands: int | None) -> None:
        expected = found(heard(self.voice, plan))
        self.talks.append(Talk(f"c{len(self.talks)}", plan, partition % len(self.log.records), expected))
        self.more(len(self.talks) - 1, sent, commands)

    @precondition(lambda self: self.talks)
    @rule(number=NUMBER, sent=st.integers(0, 8), commands=COMMANDS)
    def more(self, number: int, sent: int, commands: int | None) -> None:
        self.speak(self.talks[number % len(self.talks)], sent)
        self.loop.run(self.rest(commands))

    # Who works, and how that ends.

    @rule()
    def join(self) -> None:
        if len(self.living) == MEMBERS_MAX:
            return

        async def made() -> Member:
            return Member(
                f"w{len(self.members)}", self.server.url, self.log, self.encoder, self.config, batch=self.batch
            )

        self.members.append(self.loop.run(made()))

    @rule(member=NUMBER)
    def leave(self, member: int) -> None:
        self.loop.run(self.member(member).stop())

    @precondition(lambda self: self.deaths < DEATHS_MAX)
    @rule(member=NUMBER)
    def crash(self, member: int) -> None:
        self.deaths += 1
        self.member(member).die()

    @precondition(lambda self: self.deaths < DEATHS_MAX)
    @rule(
        member=NUMBER,
        moment=st.sampled_from(get_args(Moment)),
        left=st.sampled_from([1, 2, 3, 5, 8, 13, 21]),
        deed=st.sampled_from(get_args(Deed)),
        steps=STEPS,
    )
    def trap(self, member: int, moment: Moment, left: int, deed: Deed, steps: int) -> None:
        self.deaths += deed == "crash"
        trapped = self.member(member)
        trapped.trap = Trap(moment, left, deed)
        self.after(steps, trapped.release)

    # Who reads what.

    @rule(partition=NUMBER, member=NUMBER)
    def hand_over(self, partition: int, member: int) -> None:
        self.log.hand_over(partition % len(self.log.records), self.member(member).seat)

    @rule(partition=NUMBER, member=NUMBER, steps=STEPS)
    def take_away(self, partition: int, member: int, steps: int) -> None:
        partition %= len(self.log.records)
        before = self.log.owners[partition]
        self.log.take_away(partition, self.member(member).seat)
        self.after(steps, partial(self.log.tell, partition, before))

    @rule(member=NUMBER, partition=NUMBER, back=st.integers(1, 20))
    def deliver_again(self, member: int, partition: int, back: int) -> None:
        self.member(member).seat.jump(partition % len(self.log.records), back)

    @rule(number=NUMBER, heir=NUMBER, left=st.integers(1, 5), deed=st.sampled_from(["hold", "late"]), commands=COMMANDS)
    def write_from_beyond(
        self, number: int, heir: int, left: int, deed: Literal["hold", "late"], commands: int | None
    ) -> None:
        """A step of the owner is on its way while others, or itself once more, work on the same; then it arrives."""
        self.inherit()
        partition = self.talks[number % len(self.talks)].partition
        owner = next((one for one in self.living if one.seat is self.log.owners[partition]), self.living[0])
        owner.trap = Trap("advance", left, deed)
        self.more(number, 15, None)
        self.encoder.become("slow")
        self.log.take_away(partition, self.member(heir).seat)
        self.loop.run(self.rest(commands))
        owner.release()
        self.loop.run(self.rest(2))
        self.encoder.become("quick")
        self.loop.run(self.rest(5))
        self.log.tell(partition, owner.seat)

    # What they depend on.

    @precondition(lambda self: not self.away)
    @rule(steps=STEPS)
    def refuse(self, steps: int) -> None:
        self.raw.config_set("maxmemory", 1)
        self.after(steps, self.allow)

    @precondition(lambda self: not self.away)
    @rule()
    def disconnect(self) -> None:
        self.raw.client_kill_filter(skipme=True, _type="normal")
        self.onlookers.run(self.look.close())

    @precondition(lambda self: not self.away)
    @rule(steps=STEPS)
    def kill_store(self, steps: int) -> None:
        self.onlookers.run(self.look.close())
        self.server.kill()
        self.away = True
        self.after(steps, self.start_store)

    @rule(state=st.sampled_from(["slow", "away"]), steps=STEPS)
    def encode(self, state: Literal["slow", "away"], steps: int) -> None:
        self.encoder.become(state)
        self.after(steps, partial(self.encoder.become, "quick"))

    @rule(index=NUMBER)
    def answer(self, index: int) -> None:
        if self.encoder.waiting:
            self.encoder.finish(index)

    # What always holds.

    @invariant()
    def nothing_is_wrong(self) -> None:
        due = [do for steps, do in self.pending if steps == 0]
        self.pending = [(steps - 1, do) for steps, do in self.pending if steps]
        for do in due:
            do()
        if self.members:
            self.inherit()
        if self.talks and not self.away:
            self.broken = True
            self.onlookers.run(self.check())
            self.broken = False

    async def check(self) -> None:
        # In this order, because what is on its way to the store may still arrive: nothing of it may be taken back.
        committed = dict(self.log.committed)
        before = {talk.call_id: await self.look.archive.results(default(talk.call_id)) for talk in self.talks}
        accounts = {talk.call_id: await self.look.checkpoints(default(talk.call_id)) for talk in self.talks}
        letters = {letter.record.at for letter in self.log.letters}
        for talk in self.talks:
            checkpoint = accounts[talk.call_id].get("phone", NEW_STREAM)
            stored = await self.look.archive.results(default(talk.call_id))
            assert set(found(stored)) <= set(talk.expected), talk
            for who, cut in checkpoint.tracks.items():
                track = _of(stored, who)
                assert all(one.end_ms <= following.start_ms for one, following in pairwise(track)), talk
                assert len(_of(before[talk.call_id], who)) <= cut.utterances <= len(track), talk
            self.check_account(talk, checkpoint, letters, committed.get(talk.partition, 0))

    def check_account(
        self, talk: Talk, checkpoint: Checkpoint, letters: Collection[Coordinates], committed: int
    ) -> None:
        account, records = checkpoint.account, [record.at for record in self.records_of(talk)]
        settled = [at for at in records if at.offset < account.counted_to and at not in letters]
        assert account.analysed + sum(account.skipped.values()) == len(settled), (talk, account)
        unknown = [at for at in records if at.offset >= account.counted_to and at not in letters]
        assert not unknown or committed <= unknown[0].offset, (talk, checkpoint, committed)

    def teardown(self) -> None:
        try:
            if not self.broken and self.members:
                self.loop.run(self.heal())
                self.broken = True
                self.onlookers.run(self.check())
                self.onlookers.run(self.check_end())
        finally:
            self.loop.run(self.end())
            self.onlookers.run(self.look.close())
            self.loop.close()
            self.onlookers.close()
            if self.away:
                self.server.restart()
            self.raw.config_set("maxmemory", 0)
            self.raw.close()

    async def heal(self) -> None:
        """Everything comes back, all that was not sent is sent, and one member has all partitions."""
        for _, do in self.pending:
            do()
        self.allow()
        for talk in self.talks:
            self.speak(talk, 100)
        for member in self.members:
            member.trap = None
            member.release()
        last = Member("last", self.server.url, self.log, self.encoder, self.config, batch=16)
        self.members.append(last)
        for partition in range(len(self.log.records)):
            self.log.hand_over(partition, last.seat)
        deadline_s = time.monotonic() + HEALED_MAX_S
        wanted = {partition: end for partition, end in self.log.ends.items() if end}
        while any(self.log.committed.get(partition) != end for partition, end in wanted.items()):
            assert time.monotonic() < deadline_s, f"committed {self.log.committed} of {wanted}"
            last.worker.check()
            await asyncio.sleep(0.002)

    async def check_end(self) -> None:
        extents = {
            partition: Extent(0, end, self.log.committed.get(partition)) for partition, end in self.log.ends.items()
        }
        report = await audit(self.log.log_index(), extents, self.look, lambda: self.log.letters, "live")
        assert report.findings == []
        assert report.pending == 0
        for talk in self.talks:
            assert found(await self.look.archive.results(default(talk.call_id))) == talk.expected, talk
            state = await self.look.archive.call(default(talk.call_id))
            assert state is not None, talk
            assert state.status == "final", talk
            events = Counter(event.kind for event in await self.look.archive.events(default(talk.call_id)))
            assert events["utterance"] == len(talk.expected), talk

    async def end(self) -> None:
        for member in self.members:
            member.die()
        for member in self.members:
            await member.stop()
            await member.disconnect()

    # How it is done.

    def after(self, steps: int, do: Callable[[], None]) -> None:
        self.pending.append((steps, do))

    def allow(self) -> None:
        if not self.away:
            self.raw.config_set("maxmemory", 0)

    def start_store(self) -> None:
        if self.away:
            self.server.restart()
            self.away = False

    def inherit(self) -> None:
        """The group notices that a member has gone, and others get what it had."""
        if not self.living:
            self.join()
        for partition, owner in self.log.owners.items():
            if owner.gone:
                self.log.take_away(partition, self.living[partition % len(self.living)].seat)

    @property
    def living(self) -> list[Member]:
        return [member for member in self.members if not member.dead]

    def member(self, number: int) -> Member:
        self.inherit()
        return self.living[number % len(self.living)]

    def speak(self, talk: Talk, count: int) -> None:
        fragments = fragments_of(self.voice, talk.plan)[talk.sent : talk.sent + count]
        recorded = int(talk.call_id[1:]) % 2 == 1  # every other one waits behind the rest
        for fragment in fragments:
            sent = sent_as(replace(fragment, recorded=recorded), talk.call_id)
            self.log.append(talk.partition, talk.call_id, sent)
        talk.sent += len(fragments)

    def records_of(self, talk: Talk) -> Iterator[Record]:
        return (record for record in self.log.records[talk.partition] if record.key == talk.call_id.encode())

    async def rest(self, commands: int | None = None) -> None:
        """Let the members work until nothing more happens by itself, or until they have sent so many commands."""
        deadline_s = time.monotonic() + STEP_MAX_S
        for member in self.living:
            member.seat.idle_polls = 0
        before = self.commands
        while not all(member.at_rest for member in self.living) and time.monotonic() < deadline_s:
            if commands is not None and self.commands - before >= commands:
                return
            await asyncio.sleep(0.001)

    @property
    def commands(self) -> int:
        return sum(member.commands for member in self.members)


def _of(stored: list[UtteranceSentiment], who: Participant) -> list[UtteranceSentiment]:
    return [one for one in stored if one.participant is who]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    """A Redis that keeps an append-only file: killed, it forgets nothing that it has answered."""
    redis_server = OwnRedis(tmp_path_factory.mktemp("r"), "--appendonly", "yes", "--appendfsync", "no")
    yield redis_server
    redis_server.kill()


def explore(voice: Voice, server: OwnRedis, seed: int, examples: int, steps: int) -> None:
    machine = hypothesis.seed(seed)(partial(Protocol, voice, server))
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=settings)  # type: ignore[arg-type]  # any callable will do


@pytest.fixture
def quiet(vowels: Voice, server: OwnRedis) -> Iterator[Protocol]:
    """Two members, two calls, no trouble; in the end everything is judged."""
    machine = Protocol(vowels, server)
    machine.begin(partitions=2, in_flight=16, ahead=4, delay_s=0, batch=16, plan="damaged")
    machine.call("nobody", 0, 5, None)
    machine.nothing_is_wrong()
    yield machine
    machine.nothing_is_wrong()
    machine.teardown()


@pytest.mark.parametrize("heir", [0, 1])
@pytest.mark.parametrize("left", [1, 2, 3, 4])
def test_what_arrives_from_an_earlier_opening_changes_nothing(quiet: Protocol, left: int, heir: int) -> None:
    quiet.write_from_beyond(0, heir, left, "hold", None)


@pytest.mark.parametrize("deed", ["lose", "crash"])
@pytest.mark.parametrize("moment", get_args(Moment))
def test_a_step_is_done_once_wherever_it_is_cut_off(quiet: Protocol, moment: Moment, deed: Deed) -> None:
    quiet.trap(0, moment, 1, deed, 1)
    for talk in (0, 1):
        quiet.more(talk, 15, None)
        quiet.nothing_is_wrong()


def test_whatever_happens_nothing_is_lost_and_nothing_doubled(vowels: Voice, server: OwnRedis) -> None:
    explore(vowels, server, seed=1, examples=8, steps=25)


@pytest.mark.parametrize("seed", [2])
def test_whatever_happens_for_longer(vowels: Voice, server: OwnRedis, seed: int) -> None:
    explore(vowels, server, seed=seed, examples=15, steps=30)
