"""`make chaos SEED=1 FAULTS=200`: calls through the whole system while its parts are killed, stopped and cut off.

The same calls go through undisturbed first. Afterwards both must have the same utterances, every offset must be
committed, and the audit must be clean. What is done, and when, follows from the seed; what it meets does not.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np

from deployments.sample import ANGRY_TO_CONTENT
from models.types import FloatArray
from pipelines.errors import SourceUnavailableError, StoreUnavailableError
from pipelines.log.choose import open_producer, open_reader
from pipelines.log.dead_letter import Letter, read_letters
from pipelines.log.records import fragment_headers, seal_fragment
from pipelines.review.audit import AuditReport, LogIndex, audit
from pipelines.seal import Seal
from pipelines.settings import AppConfig, MediaLimits, WorkerSettings
from pipelines.store.store import Store
from pipelines.tenants import TimeoutSettings
from pipelines.types import (
    DEFAULT_CONSENT,
    TOPIC_DEAD_LETTER,
    TOPIC_MEDIA,
    CallRef,
    MediaFragment,
    Participant,
    UtteranceSentiment,
)
from tests.chaos.world import FAULTS, World, await_true, built, replicas
from tests.pipelines.stored import default

RATE = 8000
CALLS = 40
"""One of the two workers has at least half of them, and is killed first of all."""
STREAMS_OPEN = "undertone_streams_open "
PAUSE_S = (0.3, 3.0)
HEAD_START = 0.2
"""What part of the calls is sent before the first fault."""
STEADY_S = 5.0
"""How long a condition must hold to count.

Workers report every 2 s, and leave out what they have read and not begun; a replacement that joins late moves partitions
once more.
"""
FINAL_S = 900.0
TOLERANCE = 2e-3
"""Of scores and probabilities: batches of other sizes round differently."""
CONFIG = AppConfig(
    source="kafka",
    # Two runs are compared with each other: which words Whisper hears does not matter, and these take half the time.
    transcriber="tiny.en",
    # An encoder that is away must not change a result, or the two runs could not be compared.
    timeouts=TimeoutSettings(then="wait"),
    worker=WorkerSettings(retry_max_s=2.0, closed_after_s=3_600),
)


@dataclass(slots=True)
class Sender:
    """Sends fragments in order, up to the part of them that is due; what the log did not acknowledge goes again."""

    world: World
    fragments: Sequence[MediaFragment]
    due: float = 0.0
    sent: int = 0
    again: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until everything is sent."""
        while self.sent < len(self.fragments) and not self.stopped.is_set():
            try:
                self._send()
            except SourceUnavailableError:
                self.again += 1
                time.sleep(0.5)

    def _send(self) -> None:
        producer = open_producer(CONFIG, self.world.settings)
        try:
            while self.sent < len(self.fragments) and not self.stopped.is_set():
                ready = min(len(self.fragments), round(self.due * len(self.fragments)))
                for fragment in self.fragments[self.sent : ready]:
                    producer.send(TOPIC_MEDIA, fragment.call_id, fragment.media, fragment_headers(fragment))
                producer.flush()
                self.sent = max(self.sent, ready)
                time.sleep(0.05)
        finally:
            with suppress(SourceUnavailableError):
                producer.close()


def sealed(world: World, fragments: Sequence[MediaFragment]) -> list[MediaFragment]:
    """The fragments as `undertone send` puts them into the log."""

    async def seals() -> dict[CallRef, Seal]:
        store = Store.connect(_url(world))
        try:
            made = {one.call: await store.seals.of_call(one.call, TOPIC_MEDIA) for one in fragments}
            for seal in made.values():
                await store.seals.keep(seal)
        finally:
            await store.close()
        return made

    made = asyncio.run(seals())
    return [seal_fragment(one, made[one.call], DEFAULT_CONSENT) for one in fragments]


def speech(data: Path | None) -> FloatArray:
    """Two parties, (2, N) at 8 kHz: a real call where there is one, the sample call else."""
    if data is not None and (data / "calls" / "auto_repairs_40_agent.flac").is_file():
        tracks = [_mono(data / "calls" / f"auto_repairs_40_{party}.flac") for party in ("agent", "caller")]
        length = min(track.size for track in tracks)
        return np.stack([track[:length] for track in tracks])
    return _sound(ANGRY_TO_CONTENT)


def call(sound: FloatArray, call_id: str, number: int, media_s: int) -> list[MediaFragment]:
    """A window of the speech as a call of one-second fragments; a fragment of every seventh call is damaged."""
    begin = number * 7 * RATE % max(RATE, sound.shape[1] - media_s * RATE)
    window = sound[:, begin : begin + media_s * RATE]
    fragments = []
    for seq in range(media_s):
        media = np.rint(window[:, seq * RATE : (seq + 1) * RATE].T * 32767).astype(">i2").tobytes()
        damaged = number % 7 == 3 and seq == media_s // 2
        fragments.append(
            MediaFragment(
                call_id=call_id,
                tenant="default",
                stream="phone",
                seq=seq,
                start_ms=seq * 1000,
                content_type="audio/x-matroska" if damaged else f"audio/L16;rate={RATE};channels=2",
                participants=(Participant.AGENT, Participant.CUSTOMER),
                consent=None,
                final=seq == media_s - 1,
                media=media,
            )
        )
    return fragments


def interleaved(sound: FloatArray, names: Sequence[str], media_s: int) -> list[MediaFragment]:
    """All calls at once, second by second."""
    calls = [call(sound, name, number, media_s) for number, name in enumerate(names)]
    return [one for second in zip(*calls, strict=True) for one in second]


async def _results(url: str, names: Sequence[str]) -> tuple[dict[str, list[UtteranceSentiment]], bool]:
    """Each call's results, and whether all are final."""
    store = Store.connect(url)
    try:
        infos = [await store.archive.call(default(name)) for name in names]
        found = {name: await store.archive.results(default(name)) for name in names}
        return found, all(info is not None and info.status == "final" for info in infos)
    finally:
        await store.close()


def await_final(world: World, names: Sequence[str]) -> dict[str, list[UtteranceSentiment]]:
    """Wait until every call is final."""
    deadline_s = time.monotonic() + FINAL_S
    while True:
        try:
            found, final = asyncio.run(_results(_url(world), names))
        except StoreUnavailableError:
            final = False
        if final:
            return found
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"calls are not final after {FINAL_S:.0f} s")
        time.sleep(0.5)


def same(one: UtteranceSentiment, other: UtteranceSentiment) -> bool:
    """Whether two results of the same speech say the same."""
    if (one.end_ms, one.consent, _words(one)) != (other.end_ms, other.consent, _words(other)):
        return False
    if one.judgement is None or other.judgement is None:
        return one.judgement == other.judgement
    pairs = [(one.judgement.score, other.judgement.score)]
    pairs += [(p, other.judgement.emotion_probabilities[e]) for e, p in one.judgement.emotion_probabilities.items()]
    pairs += [(p, other.judgement.polarity_probabilities[e]) for e, p in one.judgement.polarity_probabilities.items()]
    return all(abs(first - second) <= TOLERANCE for first, second in pairs)


def differences(
    calm: Sequence[Sequence[UtteranceSentiment]], storm: Sequence[Sequence[UtteranceSentiment]]
) -> dict[str, int]:
    """Utterances of the undisturbed run that the other lost, has twice or where it never was, or judges otherwise."""
    lost = doubled = changed = 0
    for expected, found in zip(calm, storm, strict=True):
        by_place = {(one.participant, one.start_ms): one for one in expected}
        there = Counter((one.participant, one.start_ms) for one in found)
        lost += sum(place not in there for place in by_place)
        doubled += sum(count - (place in by_place) for place, count in there.items())
        for one in found:
            before = by_place.get((one.participant, one.start_ms))
            if before is not None and not same(before, one):
                changed += 1
                say(f"changed: {before.model_dump_json()}\n     to: {one.model_dump_json()}")
    return {"lost": lost, "doubled": doubled, "changed": changed}


def audited(world: World) -> AuditReport:
    """The audit of everything the log holds."""

    def letters() -> list[Letter]:
        with closing(open_reader(CONFIG, world.settings, TOPIC_DEAD_LETTER)) as reader:
            return list(read_letters(reader.records(reader.extents())))

    async def compared() -> AuditReport:
        store = Store.connect(_url(world))
        try:
            return await audit(log_index, extents, store, letters, "live")
        finally:
            await store.close()

    log_index = LogIndex(MediaLimits())
    with closing(open_reader(CONFIG, world.settings, TOPIC_MEDIA)) as reader:
        extents = reader.extents()
        for record in reader.records(extents):
            log_index.add(record)
    return asyncio.run(compared())


def offsets_final(world: World) -> bool:
    """Whether the group has committed everything that the topic holds."""
    with closing(open_reader(CONFIG, world.settings, TOPIC_MEDIA)) as reader:
        return all(extent.end in (0, extent.committed) for extent in reader.extents().values())


def run(
    seed: int,
    number: int,
    *,
    media_s: int,
    data: Path | None,
    folder: Path,
    calls: int = CALLS,
    pause_s: tuple[float, float] = PAUSE_S,
) -> dict[str, Any]:
    """One chaos run, a pause between two faults; says what it does as it does it, and returns what it found."""
    random, sound = Random(seed), speech(data)
    say(f"{calls} calls of {media_s} s, {'real speech' if data else 'the sample call'}; starting everything …")
    with built(folder, CONFIG) as world:
        calm_names = [f"calm-{index}" for index in range(calls)]
        storm_names = [f"storm-{index}" for index in range(calls)]
        started_s = time.monotonic()
        Sender(world, sealed(world, interleaved(sound, calm_names, media_s)), due=1.0).run()
        calm = await_final(world, calm_names)
        say(f"undisturbed: {sum(map(len, calm.values()))} utterances in {time.monotonic() - started_s:.0f} s")
        sender = Sender(world, sealed(world, interleaved(sound, storm_names, media_s)), due=HEAD_START)
        sending = threading.Thread(target=sender.run, daemon=True)
        sending.start()
        try:
            started = int(HEAD_START * len(sender.fragments))
            await_true(lambda: sender.sent >= started, 60, "the head start is not sent")
            held, worker_s = worker_catch_up_s(world, calls)
            say(f"a killed worker with {held} open calls was caught up with after {worker_s:.1f} s")
            done = _break(world, random, number, sender, pause_s)
        except BaseException:
            sender.stopped.set()
            raise
        finally:
            sender.due = 1.0
            world.heal_due(everything=True)
        healed_s = time.monotonic()
        sending.join(FINAL_S)
        storm = await_final(world, storm_names)
        catch_up_s = time.monotonic() - healed_s
        say(f"all calls are final {catch_up_s:.1f} s after the last fault; {sender.again} sends went again")
        await_true(lambda: offsets_final(world), 120, "offsets are not committed")
        report = audited(world)
    found = differences([calm[name] for name in calm_names], [storm[name] for name in storm_names])
    return {
        "seed": seed,
        "faults": dict(sorted(done.items())),
        "calls": calls,
        "utterances": sum(map(len, storm.values())),
        **found,
        "audit": "clean" if report.clean else [one.model_dump() for one in report.findings],
        "dead_lettered": report.dead_lettered,
        "catch_up_s": round(catch_up_s, 1),
        "worker_catch_up_s": round(worker_s, 1),
        "worker_open_calls": held,
    }


def worker_catch_up_s(world: World, calls: int) -> tuple[int, float]:
    """Kill the worker that holds most of the calls: how many, and seconds until others have them open for good, all read."""

    def caught_up(dead: int) -> bool:
        living = [text for owner, text in asyncio.run(_workers(_url(world))).items() if f"-{dead}-" not in owner]
        partitions = {
            line.split('"')[1] for text in living for line in text if line.startswith("undertone_lag_records{")
        }
        return (
            _sum(living, STREAMS_OPEN) == calls
            and _sum(living, "undertone_lag_records{") == 0
            and _sum(living, "undertone_utterances_in_flight ") == 0
            and len(partitions) == world.settings.kafka_partitions
        )

    held_since_s(lambda: caught_up(0), "the calls are not open")
    held = {pid: _held(asyncio.run(_workers(_url(world))), pid) for pid in replicas("Ingest")}
    victim = max(held, key=lambda pid: held[pid])
    started_s = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    caught_up_s = held_since_s(lambda: caught_up(victim), "a killed worker's calls were not taken over")
    return held[victim], caught_up_s - started_s


def held_since_s(condition: Callable[[], bool], otherwise: str) -> float:
    """Wait until a condition has held for a while: since when it has, by the monotonic clock."""
    since_s = math.inf

    def steady() -> bool:
        nonlocal since_s
        since_s = min(since_s, time.monotonic()) if condition() else math.inf
        return time.monotonic() - since_s > STEADY_S

    await_true(steady, 300, otherwise)
    return since_s


def _held(workers: Mapping[str, Sequence[str]], pid: int) -> int:
    return round(_sum([text for owner, text in workers.items() if f"-{pid}-" in owner], STREAMS_OPEN))


async def _workers(url: str) -> dict[str, list[str]]:
    store = Store.connect(url)
    try:
        return {owner: text.splitlines() for owner, text in (await store.service.metrics()).items()}
    finally:
        await store.close()


def _sum(texts: Sequence[Sequence[str]], name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for text in texts for line in text if line.startswith(name))


def _break(
    world: World, random: Random, number: int, sender: Sender, pause_range_s: tuple[float, float]
) -> Counter[str]:
    done, bag = Counter[str](), list[str]()
    started_s = time.monotonic()
    while done.total() < number:
        bag = bag or random.sample(sorted(FAULTS), len(FAULTS))  # every kind before any comes again
        kind = bag.pop()
        if FAULTS[kind](world, random):
            done[kind] += 1
            say(f"{time.monotonic() - started_s:7.1f} s  {done.total():4d} of {number}  {kind}")
        sender.due = HEAD_START + (1 - HEAD_START) * done.total() / number
        until_s = time.monotonic() + random.uniform(*pause_range_s)
        while time.monotonic() < until_s:
            world.heal_due()
            time.sleep(0.05)
    return done


def say(text: str) -> None:
    """Progress, beside the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def failed(found: dict[str, Any]) -> bool:
    """Whether anything was lost, doubled or changed, or does not add up."""
    return bool(found["lost"] or found["doubled"] or found["changed"] or found["audit"] != "clean")


def _words(result: UtteranceSentiment) -> list[tuple[str, int, int]] | None:
    return None if result.transcript is None else [(w.text, w.start_ms, w.end_ms) for w in result.transcript.words]


def _url(world: World) -> str:
    return world.settings.redis.get_secret_value()


def _mono(path: Path) -> FloatArray:
    mono: FloatArray = _sound(path)[0]
    return mono


def _sound(path: Path) -> FloatArray:
    with av.open(path) as container:
        layout = "stereo" if container.streams.audio[0].channels > 1 else "mono"
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=RATE)
        frames = [frame for packet in container.decode(audio=0) for frame in resampler.resample(packet)]
    sound: FloatArray = np.concatenate([frame.to_ndarray() for frame in frames], axis=1, dtype=np.float32)
    return sound


def main() -> None:
    """Run with `--seed` and `--faults`; the last line is JSON. Exits with 1 when anything was lost, doubled or unclear."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--media-s", type=int, default=30, help="length of each call")
    options = parser.parse_args()
    data = Path(os.environ["UNDERTONE_DATA"]) if os.environ.get("UNDERTONE_DATA") else None
    with tempfile.TemporaryDirectory(prefix="undertone-chaos-") as folder:
        found = run(options.seed, options.faults, media_s=options.media_s, data=data, folder=Path(folder))
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(int(failed(found)))


if __name__ == "__main__":
    main()
