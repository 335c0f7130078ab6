import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import redis

from deployments.http.bodies import MediaMetadata
from deployments.http.problems import ProblemError
from deployments.http.reservations import Reservation, reserved
from pipelines.errors import CallDeletedError, MediaError
from pipelines.seal import Seal
from pipelines.store.ledger import Taken
from pipelines.store.store import Store
from pipelines.types import TOPIC_MEDIA, CallRef, MediaFragment
from tests.deployments.http.site import LIMITS, Site, problem, serving, wav
from tests.eventually import eventually
from tests.pipelines.media_files import film, sound
from tests.pipelines.stored import fragment

WORD = "a-word-of-the-sender"
PATH = "/v1/calls?participants=customer"
RECORDINGS = {
    "audio/wav": wav(sound(9.0, 8000)),
    "audio/PCMU": bytes(range(250)) * 300,
    "video/x-matroska": film("matroska", sound_codec="opus", samples=sound(9.0, 48_000)),
}


def media_of(site: Site, call_id: str) -> list[tuple[object, ...]]:
    found = [one for one in site.fragments() if one.call_id == call_id]
    return [(one.seq, one.start_ms, one.final, one.media) for one in found]


def known(site: Site, call_id: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(site.redis_url) as client:
        found: dict[bytes, bytes] = client.hgetall(f"ut:{{default/{call_id}}}:senders")
        return found


@pytest.mark.parametrize("kind", RECORDINGS)
async def test_an_upload_whose_connection_broke_is_taken_up_where_it_ended(site: Site, address: str, kind: str) -> None:
    recording, path = RECORDINGS[kind], f"{PATH}&call_id=torn&resume={WORD}"
    headers = {"content-type": kind}

    host, _, port = address.partition(":")
    _, sender = await asyncio.open_connection(host, int(port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {len(recording)}\r\n\r\n"
    )
    sender.write(head.encode() + recording[: 2 * len(recording) // 3])
    await eventually(lambda: asyncio.to_thread(lambda: len(media_of(site, "torn")) >= 3))
    sender.transport.abort()
    await eventually(lambda: known(site, "torn").get(b"main/taken"))
    first = media_of(site, "torn")
    again = await site.client.post(path, content=recording, headers=headers)
    whole = await site.client.post(f"{PATH}&call_id=whole", content=recording, headers=headers)

    assert (again.status_code, whole.status_code) == (202, 202)
    torn, undisturbed = media_of(site, "torn"), media_of(site, "whole")
    assert 3 <= len(first) < len(torn)
    assert not any(final for _, _, final, _ in first)
    assert torn == undisturbed  # each fragment once, and in order
    assert again.json()["fragments"] == whole.json()["fragments"] == len(undisturbed)


async def test_an_upload_whose_answer_was_lost_is_told_it_again(site: Site) -> None:
    path = f"{PATH}&call_id=c&resume={WORD}"
    answers = [await site.client.post(path, content=RECORDINGS["audio/wav"]) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(media_of(site, "c")) == answers[0].json()["fragments"]


@pytest.mark.parametrize("other", [wav(-sound(9.0, 8000)), wav(sound(2.0, 8000))], ids=["other", "shorter"])
async def test_an_upload_is_not_taken_up_with_other_media(site: Site, other: bytes) -> None:
    path = f"{PATH}&call_id=c&resume={WORD}"
    await site.client.post(path, content=RECORDINGS["audio/wav"])
    before = media_of(site, "c")

    detail = problem(await site.client.post(path, content=other), 409, "other_media")["detail"]

    assert "another call id" in detail
    assert media_of(site, "c") == before


@pytest.mark.parametrize(
    "other",
    ["participants=agent", "participants=customer&start_ms=5000", "participants=customer&consent=customer=text"],
)
async def test_an_upload_is_not_taken_up_as_somebody_else_or_elsewhere(site: Site, other: str) -> None:
    await site.client.post(f"{PATH}&call_id=c&resume={WORD}", content=RECORDINGS["audio/wav"])
    before = media_of(site, "c")

    answer = await site.client.post(f"/v1/calls?{other}&call_id=c&resume={WORD}", content=RECORDINGS["audio/wav"])

    problem(answer, 409, "other_media")
    assert media_of(site, "c") == before


async def test_who_can_be_told_that_an_upload_broke_off_is_told_how_to_go_on(redis_url: str) -> None:
    """Also one that named no word of its own, and no call."""
    recording = RECORDINGS["audio/wav"]
    stops = replace(LIMITS, idle_max_s=1, upload_min_bytes=1)

    async def body() -> AsyncIterator[bytes]:
        yield recording[: len(recording) // 2]
        await asyncio.Event().wait()

    async with serving(redis_url, stops) as site:
        stopped = await site.client.post(PATH, content=body())
        detail = problem(stopped, 408, "idle")["detail"]
        call_id, word = detail.partition("call_id=")[2].split(" and resume=")
        first = media_of(site, call_id)
        assert first
        again = await site.client.post(f"{PATH}&call_id={call_id}&resume={word}", content=recording)
        assert again.status_code == 202
        whole = media_of(site, call_id)
    assert whole[: len(first)] == first
    assert [seq for seq, *_ in whole] == list(range(again.json()["fragments"]))


def pieces(*media: bytes) -> Iterator[MediaFragment]:
    return (replace(fragment("c"), seq=seq, media=one) for seq, one in enumerate(media))


def test_progress_is_what_was_handed_over_and_ends_where_the_media_does() -> None:
    def torn() -> Iterator[MediaFragment]:
        yield from pieces(b"a", b"b")
        raise MediaError("the sender went away")

    held = Reservation(WORD, Seal.new(CallRef("default", "c"), TOPIC_MEDIA))
    with pytest.raises(MediaError):
        list(held.left(torn()))
    assert (held.progress.fragments, held.broke_off) == (2, True)

    assert [one.media for one in held.left(pieces(b"a", b"b", b"c"))] == [b"c"]
    assert (held.progress.fragments, held.broke_off) == (3, False)
    with pytest.raises(ProblemError) as other:
        list(held.left(pieces(b"a", b"b", b"C")))
    assert other.value.reason == "other_media"


async def test_only_its_sender_moves_how_far_a_stream_has_come(redis_url: str) -> None:
    store, call = Store.connect(redis_url), CallRef("default", "c")
    assert await store.ledger.reserve_stream(call, "main", "word", first=True) == Taken()
    await store.ledger.note_taken(call, "main", "another", Taken(9, "x"))
    assert await store.ledger.reserve_stream(call, "main", "word", first=True) == Taken()
    await store.ledger.note_taken(call, "main", "word", Taken(4, "d"))
    assert await store.ledger.reserve_stream(call, "main", "word", first=False) == Taken(4, "d")
    assert await store.ledger.reserve_stream(call, "main", "another", first=True) is None
    await store.ledger.release_stream(call, "main", "word")
    assert await store.ledger.reserve_stream(call, "main", "new", first=True) == Taken()
    await store.close()


@pytest.mark.parametrize("keep_seal", [False, True], ids=["the log is the store", "the log is apart"])
async def test_a_call_that_is_deleted_while_its_media_comes_is_refused_at_the_end(
    redis_url: str, *, keep_seal: bool
) -> None:
    store, call = Store.connect(redis_url), CallRef("default", "c")
    with pytest.raises(CallDeletedError):
        async with reserved(store, call, MediaMetadata(participants="customer"), live=False, keep_seal=keep_seal):
            assert await store.delete_call(call)
    await store.close()
