import numpy as np

from pipelines.ingest.context import InFlight
from pipelines.ingest.waiting import HasRoom, WaitingRecords
from pipelines.metrics import stream_metrics
from pipelines.types import CallRef, Coordinates, Participant, Record, Utterance


def record(offset: int, call_id: str, *, recorded: bool = False, tenant: str = "default") -> Record:
    headers = (("tenant", tenant.encode()), *((("recorded", b"1"),) if recorded else ()))
    return Record(Coordinates(0, offset), call_id.encode(), b"four", headers, 0)


def anybody(call: CallRef | None, recorded: bool) -> bool:  # noqa: FBT001  # a `HasRoom`
    del call, recorded
    return True


def taken(waiting: WaitingRecords, has_room: HasRoom = anybody) -> list[int]:
    order = []
    while one := waiting.next(has_room, recorded=False) or waiting.next(has_room, recorded=True):
        waiting.take(one)
        order.append(one.record.at.offset)
    return order


def test_calls_take_turns_and_each_keeps_its_order() -> None:
    waiting = WaitingRecords()
    for offset, call_id in enumerate(["a", "a", "a", "b", "b", "c"]):
        waiting.put(record(offset, call_id))
    assert (len(waiting), waiting.held_bytes, waiting.first) == (6, 6 * (4 + 1024), 0)
    assert taken(waiting) == [0, 3, 5, 1, 4, 2]
    assert (len(waiting), waiting.held_bytes, waiting.first) == (0, 0, None)


def test_a_live_call_waits_for_no_upload_however_many_there_are() -> None:
    waiting = WaitingRecords()
    for offset in range(300):
        waiting.put(record(offset, f"upload-{offset % 3}", recorded=True))
    for offset in (300, 301):
        waiting.put(record(offset, "live"))
    assert taken(waiting)[:2] == [300, 301]


def test_a_call_without_room_holds_up_no_other() -> None:
    waiting = WaitingRecords()
    for offset, call_id in enumerate(["full", "full", "free"]):
        waiting.put(record(offset, call_id))
    assert taken(waiting, lambda call, _recorded: call != CallRef("default", "full")) == [2]
    assert waiting.holds(CallRef("default", "full"))
    assert not waiting.holds(CallRef("default", "free"))


def test_two_tenants_calls_of_one_id_are_two_calls() -> None:
    waiting = WaitingRecords()
    for offset, tenant in enumerate(["acme", "acme", "default"]):
        waiting.put(record(offset, "c", tenant=tenant))
    assert taken(waiting) == [0, 2, 1]


def test_what_says_not_whose_it_is_waits_too() -> None:
    waiting = WaitingRecords()
    waiting.put(Record(Coordinates(0, 4), None, b"", (), 0))
    assert taken(waiting) == [4]


def test_recordings_together_and_any_one_call_have_half_of_the_room() -> None:
    in_flight = InFlight(stream_metrics().in_flight, 4)
    calls = {name: CallRef("default", name) for name in ("upload", "other", "live", "busy")}

    def utterance(call_id: str, *, recorded: bool) -> Utterance:
        who = Participant.CUSTOMER
        return Utterance(call_id, "default", "main", who, 0, 9, frozenset(), np.zeros(0, np.float32), recorded=recorded)

    for name in ("upload", "other"):
        in_flight.add(utterance(name, recorded=True))
    assert not in_flight.has_room(calls["other"], recorded=True)
    assert in_flight.has_room(calls["live"], recorded=False)
    for _ in range(2):
        in_flight.add(utterance("busy", recorded=False))
    assert not in_flight.has_room(calls["live"], recorded=False)  # all of it is taken
    in_flight.remove(utterance("upload", recorded=True))
    assert in_flight.has_room(calls["live"], recorded=False)
    assert not in_flight.has_room(calls["busy"], recorded=False)
    assert in_flight.has_room(calls["upload"], recorded=True)
