import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import redis

from deployments.http.api import create_api
from deployments.http.bodies import Accepted, Links
from models.types import Modality
from pipelines.settings import AppConfig, HttpSettings
from pipelines.store.store import Store
from pipelines.types import CallRef
from tests.deployments.http.site import (
    Everyone,
    LosingProducer,
    Site,
    judge,
    never_healthy,
    problem,
    result,
    serving,
    wav,
)
from tests.eventually import DEADLINE_S, eventually
from tests.pipelines.media_files import film, sound
from tests.pipelines.stored import AGENT, CUSTOMER


async def test_an_upload_becomes_fragments_in_the_log(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls",
        params={"call_id": "a-17", "participants": "agent,customer", "consent": "agent=text;customer=audio+text"},
        content=wav(sound(2.5, 8000, 2)),
        headers={"content-type": "audio/wav"},
    )

    assert answer.status_code == 202
    accepted = Accepted.model_validate(answer.json())
    assert accepted.links == Links.of("a-17")
    found = site.fragments()
    assert accepted.fragments == len(found) >= 2
    assert [piece.seq for piece in found] == list(range(len(found)))
    assert [piece.final for piece in found] == [False] * (len(found) - 1) + [True]
    assert {piece.call_id for piece in found} == {"a-17"}
    assert {piece.recorded for piece in found} == {True}
    assert found[0].participants == (AGENT, CUSTOMER)
    assert found[0].consent == {AGENT: frozenset({Modality.TEXT}), CUSTOMER: frozenset({Modality.AUDIO, Modality.TEXT})}


async def test_raw_sound_is_cut_by_its_content_type(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?participants=agent,customer",
        content=bytes(16_000 * 2),
        headers={"content-type": "audio/PCMU;rate=8000;channels=2"},
    )

    assert answer.status_code == 202
    found = site.fragments()
    assert [len(piece.media) for piece in found] == [16_000, 16_000]
    assert found[0].content_type == "audio/PCMU;rate=8000;channels=2"


async def test_raw_sound_in_the_other_order_of_bytes_is_refused_with_the_type_that_fits(site: Site) -> None:
    swapped = (sound(2, 16_000).T * 32767).astype("<i2").tobytes()
    answer = await site.client.post(
        "/v1/calls?participants=customer", content=swapped, headers={"content-type": "audio/L16;rate=16000"}
    )

    assert "audio/L16;rate=16000;channels=1;endian=little" in problem(answer, 415, "undecodable")["detail"]
    assert site.fragments() == []


async def test_an_upload_is_in_the_log_before_it_has_all_come(site: Site) -> None:
    """Streamed, not buffered: the body's second half is only sent once the first is in the log."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(32_000)
        await eventually(lambda: asyncio.to_thread(site.fragments))
        yield bytes(8_000)

    answer = await site.client.post(
        "/v1/calls?participants=customer", content=body(), headers={"content-type": "audio/PCMU"}
    )

    assert answer.status_code == 202
    assert Accepted.model_validate(answer.json()).fragments == 5


@pytest.mark.parametrize(
    ("query", "body", "status", "reason"),
    [
        ("participants=customer", b"", 400, "no_body"),
        ("", b"abc", 415, "undecodable"),
        ("participants=bob", b"abc", 422, "invalid_input"),
        ("participants=customer&consent=customer:all", b"abc", 422, "invalid_input"),
        ("participants=customer&call_id=a%20b", b"abc", 422, "invalid_input"),
        ("participants=customer&call_id=" + "a" * 129, b"abc", 422, "invalid_input"),
        ("participants=customer&colour=red", b"abc", 422, "invalid_input"),
        ("participants=customer", b"This is a text file named .mp4.\n" * 100, 415, "undecodable"),
    ],
)
async def test_a_bad_upload_is_refused_by_name(site: Site, query: str, body: bytes, status: int, reason: str) -> None:
    answer = await site.client.post(f"/v1/calls?{query}", content=body, headers={"content-type": "video/mp4"})

    problem(answer, status, reason)
    assert site.fragments() == []


async def test_an_upload_without_a_body_is_told_what_to_send(site: Site) -> None:
    detail = problem(await site.client.post("/v1/calls"), 400, "no_body")["detail"]

    assert "curl" in detail


async def test_an_upload_over_the_limit_is_refused_before_anything_of_it_is_taken(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?participants=customer", content=bytes(500_000), headers={"content-type": "audio/PCMU"}
    )

    problem(answer, 413, "oversize")
    assert site.fragments() == []


async def test_an_upload_of_unknown_length_is_analysed_up_to_the_limit(site: Site) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(10_000)

    answer = await site.client.post(
        "/v1/calls?participants=customer", content=body(), headers={"content-type": "audio/PCMU"}
    )

    problem(answer, 413, "oversize")
    found = site.fragments()
    assert sum(len(piece.media) for piece in found) == 400_000
    assert found[-1].final


async def test_media_over_the_limit_is_not_analysed_before_anything_of_it_is_read(site: Site) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b""
        raise AssertionError("the body was read")

    answer = await site.client.post(
        "/v1/analyze", content=body(), headers={"content-length": str(10 << 20), "content-type": "audio/wav"}
    )

    problem(answer, 413, "oversize")


async def test_a_stream_that_is_over_takes_no_media_and_another_tenant_may_use_the_call_id(site: Site) -> None:
    await site.call(final=True)
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"

    other = await site.client.post(f"{path}&tenant=acme", content=media)
    again = await site.client.post(path, content=media)
    more = await site.client.post(f"{path}&stream=webcam", content=media)

    assert other.status_code == 202
    problem(again, 409, "stream_exists")
    assert more.status_code == 202


async def test_a_record_lost_fails_every_upload_that_was_on_its_way(redis_url: str) -> None:
    """A producer drops all that waits in it when it loses one record, whoever's it is."""
    store = Store.connect(redis_url)
    api = create_api(
        store=store,
        producer=LosingProducer(),
        analyse=judge,
        health=never_healthy,
        config=AppConfig(),
        access=Everyone(),
        hosts=frozenset({"t"}),
    )
    begun, lost = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(20_000)
        begun.set()
        await lost.wait()
        yield bytes(20_000)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://t") as client:
        headers = {"content-type": "audio/PCMU"}
        waiting = asyncio.create_task(client.post("/v1/calls?participants=customer", content=slow(), headers=headers))
        await begun.wait()
        unlucky = await client.post(
            "/v1/calls?participants=customer&call_id=unlucky", content=bytes(9_000), headers=headers
        )
        lost.set()
        other = await waiting

    problem(unlucky, 503, "source_unavailable")
    problem(other, 503, "source_unavailable")
    await store.close()


@pytest.mark.parametrize("path", ["/v1/calls?participants=customer", "/v1/analyze"])
async def test_a_length_of_thousands_of_digits_is_too_long(site: Site, path: str) -> None:
    answer = await site.client.post(path, content=b"a", headers={"content-length": "9" * 5_000})

    assert len(problem(answer, 413, "oversize")["detail"]) < 200


async def test_an_upload_that_broke_off_is_sent_again_by_its_sender_and_by_nobody_else(site: Site) -> None:
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"
    word = "a-word-of-the-sender"

    first = await site.client.post(f"{path}&resume={word}", content=media)
    await site.call(result(0))  # a worker has read of it
    again = await site.client.post(f"{path}&resume={word}", content=media)

    assert (first.status_code, first.json()["resume"]) == (202, word)
    assert again.status_code == 202
    for other in ("", "&resume=another-word-altogether"):
        problem(await site.client.post(f"{path}{other}", content=media), 409, "stream_exists")


async def test_the_word_that_continues_an_upload_is_made_up_and_told(site: Site) -> None:
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"

    told = (await site.client.post(path, content=media)).json()["resume"]

    problem(await site.client.post(path, content=media), 409, "stream_exists")
    assert (await site.client.post(f"{path}&resume={told}", content=media)).status_code == 202


async def test_of_two_senders_of_one_stream_at_once_one_gets_it(site: Site) -> None:
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"

    answers = await asyncio.gather(*(site.client.post(path, content=media) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert {piece.seq for piece in site.fragments()} == set(range(len(site.fragments())))


async def test_what_was_not_taken_leaves_no_reservation_and_the_same_call_may_be_sent_again(site: Site) -> None:
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"
    noise = await site.client.post(f"{path}", content=b"no media at all" * 100)

    problem(noise, 415, "undecodable")
    assert (await site.client.post(path, content=media)).status_code == 202


async def test_a_stream_that_came_through_the_log_is_nobodys_to_continue_over_http(site: Site) -> None:
    await site.call(result(0))

    answer = await site.client.post("/v1/calls?participants=customer&call_id=a-17", content=wav(sound(0.5, 8000)))

    problem(answer, 409, "stream_exists")


async def test_an_upload_that_was_taken_whole_is_told_so_by_its_own_word(site: Site) -> None:
    media, path = wav(sound(0.5, 8000)), "/v1/calls?participants=customer&call_id=a-17"
    word = "a-word-of-the-sender"
    await site.client.post(f"{path}&resume={word}", content=media)
    await site.call(result(0), final=True)

    problem(await site.client.post(f"{path}&resume={word}", content=media), 409, "stream_complete")
    problem(await site.client.post(f"{path}&resume=of-somebody-else-s", content=media), 409, "stream_exists")


async def test_mp4s_that_lie_on_the_disk_are_bounded_together_until_they_end(redis_url: str) -> None:
    whole = film("mp4", sound_codec="aac", samples=sound(1.0, 16_000))
    path, over = "/v1/calls?participants=customer", asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield whole[:-1]
        await over.wait()
        yield whole[-1:]

    async with serving(redis_url, at_once=HttpSettings(upload_spool_max_bytes=len(whole) * 3 // 2)) as site:
        both = [asyncio.create_task(site.client.post(path, content=body())) for _ in range(2)]
        done, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        (refused,), (other,) = done, waiting
        assert "frag_keyframe" in problem(refused.result(), 503, "busy")["detail"]
        assert refused.result().headers["retry-after"]
        assert (await site.client.post(path, content=wav(sound(0.5, 8000)))).status_code == 202
        over.set()
        assert (await other).status_code == 202
        assert (await site.client.post(path, content=whole)).status_code == 202


async def test_an_upload_whose_call_is_deleted_while_it_comes_is_told_so(site: Site) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield bytes(32_000)
        await eventually(lambda: asyncio.to_thread(site.fragments))
        assert (await site.client.delete("/v1/calls/a-17")).is_success
        yield bytes(8_000)

    path, headers = "/v1/calls?participants=customer&call_id=a-17", {"content-type": "audio/PCMU"}
    problem(await site.client.post(path, content=body(), headers=headers), 410, "call_deleted")


def form_with_its_file_first(site: Site, recording: bytes, **fields: str) -> AsyncIterator[bytes]:
    """A form whose fields come when the gateway has long begun to put the file into the log."""

    def part(name: str, value: bytes, more: str = "") -> bytes:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"

    async def parts() -> AsyncIterator[bytes]:
        whole = part("file", recording, '; filename="a.wav"')
        for begin in range(0, len(whole), 50_000):
            yield whole[begin : begin + 50_000]
        with redis.Redis.from_url(site.redis_url) as client:
            await eventually(lambda: client.xlen("ut:log:{call-media}") > 0)
        for name, value in fields.items():
            yield part(name, value.encode())
        yield b"--b--\r\n"

    return parts()


@pytest.mark.parametrize("known", [False, True])
async def test_what_a_form_took_before_it_forbade_it_is_forgotten(site: Site, *, known: bool) -> None:
    if known:
        await site.call(result(0), call_id="late")
    recording = wav(np.random.default_rng(0).normal(0, 0.1, (1, 160_000)).astype(np.float32))
    answer = await site.client.post(
        "/v1/calls?participants=customer&call_id=late&stream=phone",
        content=form_with_its_file_first(site, recording, consent="", customer="4711"),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    told = problem(answer, 400, "fields_after_file")["detail"]
    assert "put the fields before it" in told
    assert await site.store.deleted(CallRef("default", "late")) is not known
    if known:  # of which a sender may not delete the rest
        assert "DELETE /v1/calls/late" in told
    else:
        assert "under another call id" in told
        with redis.Redis.from_url(site.redis_url) as client:
            assert client.xlen("ut:log:{call-media}") > 0
            assert list(client.scan_iter("*{default/late}*")) == [b"ut:{default/late}:deleted"]


async def test_more_participants_than_channels_are_refused_before_anything_is_taken(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?participants=agent,customer&call_id=c", content=bytes(16_000), headers={"content-type": "audio/PCMU"}
    )

    assert "one for each channel, or one for all" in problem(answer, 415, "undecodable")["detail"]
    assert site.fragments() == []
    problem(await site.client.get("/v1/calls/c"), 404, "unknown_call")


async def test_what_of_an_upload_is_not_heard_is_said(site: Site) -> None:
    whole = film("flac", sound_codec="flac", samples=sound(6, 16_000))
    answer = await site.client.post("/v1/calls", params={"participants": "customer"}, content=whole[: len(whole) // 2])
    assert answer.status_code == 202
    (warning,) = Accepted.model_validate_json(answer.content).warnings
    assert "says to last 6.0 s, and ends after" in warning
    complete = await site.client.post("/v1/calls", params={"participants": "customer"}, content=whole)
    assert Accepted.model_validate_json(complete.content).warnings == []


async def test_participants_that_the_media_does_not_have_are_refused_at_once(site: Site) -> None:
    whole = film("wav", sound_codec="pcm_s16le", samples=sound(2, 16_000))
    answer = await site.client.post("/v1/calls", params={"participants": "agent,customer"}, content=whole)
    assert answer.status_code == 415
    assert "2 participants on 1 channel(s): name one for each channel" in answer.json()["detail"]
