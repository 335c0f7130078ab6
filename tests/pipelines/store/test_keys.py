"""Redis keys, and how what they hold is read."""

from pipelines.checkpoints import Account, Checkpoint, TrackCut
from pipelines.store.keys import (
    CallKeys,
    calls_key,
    member,
    open_key,
    read_account,
    read_call,
    read_checkpoint,
    read_digests,
    read_event,
    trend_key,
    work_key,
    worker_key,
)
from pipelines.types import Participant
from tests.pipelines.stored import acme


def test_all_keys_of_a_call_share_its_hash_tag_in_every_run() -> None:
    live, run = CallKeys(acme("c1")), CallKeys(acme("c1"), "next")
    assert [live("call"), *live.stream("main")] == [
        "ut:{acme/c1}:call",
        "ut:{acme/c1}:call",
        "ut:{acme/c1}:streams",
        "ut:{acme/c1}:stream:main",
        "ut:{acme/c1}:deleted",
        "ut:{acme/c1}:events",
    ]
    assert run("call") == "ut:{acme/c1}:run:next:call"
    assert run("deleted") == live("deleted"), "one tombstone holds for all runs"


def test_keys_that_calls_share_are_apart_by_run() -> None:
    assert calls_key("live", "acme") == "ut:calls:acme"
    assert calls_key("next", "acme") == "ut:run:next:calls:acme"
    assert trend_key("live", "acme", 125_000) == "ut:trend:acme:2"
    assert (work_key("live", 3), open_key("next", 3)) == ("ut:work:3", "ut:run:next:open:3")
    assert worker_key("live", "w") == "ut:{metrics}:worker:w"


def test_members_sort_by_start_then_participant() -> None:
    names = [member(start, who, "main") for start, who in ((0, "agent"), (0, "customer"), (9, "agent"), (10, "agent"))]
    assert names == sorted(names)


def test_a_checkpoint_reads_as_it_was_stored() -> None:
    fields = {
        "owner": "w",
        "partition": "2",
        "resume_at": "7",
        "resume_seq": "3",
        "resume_sample": "48000",
        "cut:agent": "64000",
        "utterances:agent": "2",
        "first_at": "4",
        "counted_to": "7",
        "n:analysed": "2",
        "n:duplicate": "1",
        "n:lost": "5",
    }
    assert read_checkpoint(fields, ["2:8", "3:9"]) == Checkpoint(
        tracks={Participant.AGENT: TrackCut(64_000, 2)},
        resume_at=7,
        resume_seq=3,
        resume_sample=48_000,
        final=False,
        account=Account(4, 7, 2, {"duplicate": 1}, 0, 5),
        dead_letters=frozenset({8}),
    )
    assert read_checkpoint({"final": "1"}).final


def test_a_stream_of_which_nothing_is_stored_has_an_empty_account() -> None:
    assert read_account({}) == Account()


def test_a_call_without_its_first_fields_is_not_there() -> None:
    assert read_call(acme("c"), {"started_ms": "5"}, {}) is None
    call = read_call(acme("c"), {"status": "stalled", "started_ms": "5"}, {"main": "stalled", "cam": "?"})
    assert call is not None
    assert (call.call, call.over) == (acme("c"), False)
    assert (call.status, call.started_ms, call.last_ms, call.length_ms, call.utterances) == ("stalled", 5, 0, None, 0)
    assert call.streams == {"main": "stalled", "cam": "live"}


def test_an_event_whose_result_is_gone_keeps_its_id() -> None:
    assert read_event(("1-0", {"kind": "call-final"}), {}).kind == "call-final"
    gone = read_event(("2-0", {"kind": "utterance", "member": "m"}), {"m": None})
    assert (gone.id, gone.kind, gone.utterance) == ("2-0", "unreadable", None)


def test_a_digest_that_cannot_be_read_hides_no_other() -> None:
    assert [one.participant for one in read_digests(["agent|||", "broken", "customer|||"])] == ["agent", "customer"]
