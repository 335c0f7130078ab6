import asyncio
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from deployments.sample import ANGRY_TO_CONTENT
from models.types import FloatArray, Modality
from pipelines.settings import HttpSettings
from pipelines.types import MissingReason, ModalityOut, Utterance, UtteranceSentiment
from tests.deployments.http.site import LIMITS, Site, png, problem, result, serving, wav
from tests.eventually import eventually
from tests.pipelines.media_files import film
from tests.pipelines.stored import CUSTOMER

AS_JSON = {"content-type": "application/json"}


async def test_a_text_is_judged_at_once(site: Site) -> None:
    as_json = await site.client.post("/v1/analyze", json={"text": "Three weeks!"})
    as_form = await site.client.post("/v1/analyze", files={"text": (None, "Three weeks!")})

    assert as_json.status_code == 200
    (judged,) = [UtteranceSentiment.model_validate(found) for found in as_json.json()["results"]]
    assert judged.modalities[Modality.TEXT].used
    assert judged.participant is CUSTOMER
    assert as_form.json() == as_json.json()


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (2000, 3)])
async def test_a_picture_is_one_utterance(site: Site, size: tuple[int, int]) -> None:
    answer = await site.client.post("/v1/analyze", content=png(*size), headers={"content-type": "image/png"})

    (judged,) = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert judged.modalities[Modality.VIDEO].used
    assert not judged.modalities[Modality.AUDIO].used


@pytest.fixture(scope="module")
def speech() -> FloatArray:
    """Two seconds of the sample call in which the agent speaks: mono (32000,) at 16 kHz."""
    with av.open(str(ANGRY_TO_CONTENT)) as container:
        resampler = av.AudioResampler("fltp", "stereo", 16_000)
        blocks = [part.to_ndarray() for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(blocks, axis=1)[0, 16_000:48_000].astype(np.float32)


async def test_each_utterance_of_a_recording_is_judged(site: Site, speech: FloatArray) -> None:
    pause = np.zeros(16_000, np.float32)
    media = wav(np.concatenate([speech, pause, speech, pause])[None], 16_000)

    answer = await site.client.post(
        "/v1/analyze?participants=agent", content=media, headers={"content-type": "application/octet-stream"}
    )

    judged = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert len(judged) == 2
    assert judged[0].end_ms < judged[1].start_ms
    assert all(found.modalities[Modality.AUDIO].used for found in judged)
    assert all(found.consent == (Modality.TEXT,) for found in judged)


async def test_a_film_in_a_form_is_analysed(site: Site, speech: FloatArray) -> None:
    media = film(
        "mp4",
        sound_codec="aac",
        samples=np.concatenate([speech, np.zeros(16_000, np.float32)])[None],
        picture_codec="mpeg4",
        seconds=3.0,
    )

    files, customer = {"file": ("film.mp4", media, "image/png")}, {"participants": "customer"}
    answer = await site.client.post("/v1/analyze", data=customer, files=files)
    mixed = await site.client.post("/v1/analyze", files=files)

    assert [(one["participant"], one["consent"]) for one in mixed.json()["results"]] == [("mixed", ["text"])]
    (judged,) = [UtteranceSentiment.model_validate(found) for found in answer.json()["results"]]
    assert judged.modalities[Modality.AUDIO].used
    assert judged.modalities[Modality.VIDEO].used


@pytest.mark.parametrize(
    ("params", "consent"),
    [
        ({}, ["audio", "text", "video"]),
        ({"tenant": "quiet"}, ["audio", "text"]),
        ({"tenant": "quiet", "consent": "customer=audio"}, ["audio"]),
        ({"tenant": "quiet", "consent": "customer=audio+video"}, ["audio"]),
        ({"tenant": "another"}, ["text"]),
        ({"tenant": "another", "consent": "customer=audio+video+text"}, ["text"]),
    ],
)
async def test_a_request_gets_what_it_asks_for_of_what_the_tenants_policy_allows(
    site: Site, speech: FloatArray, params: dict[str, str], consent: list[str]
) -> None:
    recording = wav(np.concatenate([speech, np.zeros(16_000, np.float32)])[None], 16_000)

    of_text = await site.client.post("/v1/analyze", params=params, json={"text": "Three weeks!"})
    of_sound = await site.client.post("/v1/analyze", params={"participants": "customer", **params}, content=recording)

    judged = [*of_text.json()["results"], *of_sound.json()["results"]]
    assert [found["consent"] for found in judged] == [consent, consent]


@pytest.mark.parametrize("reason", ["timeout", "encoder_unavailable"])
async def test_where_nothing_is_judged_by_a_fault_of_the_service_there_is_no_result(
    redis_url: str, reason: MissingReason
) -> None:
    async def late(utterance: Utterance) -> UtteranceSentiment:
        assert utterance.recorded  # it waits
        missing = {Modality.TEXT: ModalityOut(used=False, missing=reason)}
        judgement = None if utterance.text == "late" else result(0).judgement
        return result(0).model_copy(update={"judgement": judgement, "modalities": missing})

    async with serving(redis_url, analyse=late) as site:
        nothing = await site.client.post("/v1/analyze", json={"text": "late"})
        some = await site.client.post("/v1/analyze", json={"text": "some of it"})

    found = problem(nothing, 504, "not_judged")
    assert reason in found["detail"]
    assert some.json()["results"][0]["modalities"]["text"]["missing"] == reason


async def test_a_recording_in_which_nobody_speaks_gives_nothing(site: Site) -> None:
    answer = await site.client.post("/v1/analyze", content=wav(np.zeros((1, 8000), np.float32)))

    assert answer.json() == {"results": []}


@pytest.mark.parametrize(
    ("content_type", "body", "status", "reason"),
    [
        ("application/json", b"", 400, "no_body"),
        ("application/json", b"{", 400, "bad_json"),
        ("application/json", b"\xff\xfe", 400, "bad_json"),
        ("application/json", b"[" * 200_000, 400, "bad_json"),
        ("application/json", b"[]", 422, "invalid_input"),
        ("application/json", b'{"text": ""}', 422, "invalid_input"),
        ("application/json", b'{"text": "a", "voice": "b"}', 422, "invalid_input"),
        ("application/json", json.dumps({"text": "a" * 10_001}).encode(), 422, "invalid_input"),
        ("application/json", b'{"text": "fail"}', 504, "not_judged"),
        ("image/png", b"not a picture at all", 415, "undecodable"),
        ("image/png", png(40, 40)[:60], 415, "undecodable"),
        ("image/png", png(9000, 9000), 415, "undecodable"),
        ("audio/L16", b"1234", 415, "undecodable"),
        ("audio/G726-32", bytes(1000), 415, "undecodable"),
        ("audio/L16;rate=8000", bytes(300_001), 413, "oversize"),
        ("audio/PCMU", bytes(64_000), 413, "too_long"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400, "no_body"),
        ("multipart/form-data", b"--x--\r\n", 400, "bad_form"),
    ],
)
async def test_what_cannot_be_analysed_is_refused_by_name(
    site: Site, content_type: str, body: bytes, status: int, reason: str
) -> None:
    answer = await site.client.post("/v1/analyze", content=body, headers={"content-type": content_type})

    problem(answer, status, reason)


@pytest.mark.parametrize("head", [b"{", b" \n{", b"\xff\xd8\xff", b"BM"])
async def test_raw_sound_may_begin_like_json_or_a_picture(site: Site, head: bytes) -> None:
    sound_of_silence = head + b"\xff" * 8000
    answer = await site.client.post("/v1/analyze", content=sound_of_silence, headers={"content-type": "audio/PCMU"})

    assert answer.json() == {"results": []}


async def test_json_may_be_as_long_as_the_longest_text_and_no_longer(site: Site) -> None:
    text = "\N{GRINNING FACE}" * 10_000

    assert (await site.client.post("/v1/analyze", content=json.dumps({"text": text}), headers=AS_JSON)).is_success
    problem(await site.client.post("/v1/analyze", content=b" " * 300_000, headers=AS_JSON), 413, "oversize")


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
async def test_json_that_does_not_say_so_is_told_which_header_to_send(site: Site, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = await site.client.post("/v1/analyze", content=b' {"text": "Three weeks!"}', headers=headers)
    reason = "undecodable" if kind is None else "unsupported_type"
    assert "Content-Type: application/json" in problem(answer, 415, reason)["detail"]


SLOW_ZLIB = """
import os, pathlib, time, zlib
folder, unpack = pathlib.Path(__file__).parent, zlib.decompressobj
def slow(*args):
    (folder / f"begun-{os.getpid()}").touch()
    while not (folder / "go_on").exists():
        time.sleep(0.01)
    return unpack(*args)
zlib.decompressobj = slow
"""


@pytest.mark.slow  # processes that decode
async def test_a_request_that_is_given_up_holds_its_seat_and_its_memory_until_its_thread_ends(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        SLOW_ZLIB
    )  # zlib at work on a large picture, for as long as the test needs
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")
    picture, whole = png(2, 2) + bytes(60_000), bytes(LIMITS.analyze_max_bytes)
    assert len(whole) < LIMITS.analyze_held_max_bytes < len(whole) + 2 * len(picture)
    async with serving(redis_url, at_once=HttpSettings(media_streams_max=4, media_streams_per_client_max=2)) as site:
        asking = [asyncio.create_task(site.client.post("/v1/analyze", content=picture)) for _ in range(2)]
        await eventually(lambda: len(list(tmp_path.glob("begun-*"))) == len(asking))
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)

        problem(await asyncio.wait_for(site.client.post("/v1/analyze", content=picture), 30), 429, "busy")
        problem(await asyncio.wait_for(site.client.post("/v1/analyze", content=whole), 30), 503, "busy")
        (tmp_path / "go_on").touch()

        async def answered() -> bool:
            return (await site.client.post("/v1/analyze", content=picture)).is_success

        await eventually(answered)
        problem(await site.client.post("/v1/analyze", content=whole), 415, "undecodable")
