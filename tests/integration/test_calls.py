"""Whole calls through the real thing: a Kafka broker, Redis, Ray Serve with every deployment, and HTTP."""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from ray import serve
from websockets.sync import client as sync_client

from deployments.http.tokens import token_of
from deployments.sample import ANGRY_TO_CONTENT
from deployments.serve.app import APP_NAME, build_shadow
from deployments.serve.embedded import Embedded, embedded
from pipelines.settings import AppConfig
from tests.eventually import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    # Ray leaves sockets and an event loop to the garbage collector when it shuts down.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]

PORT = 8124
FINAL_S = 300.0


@pytest.fixture(scope="module")
def running(kafka: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """The whole application, reading from the real broker."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNDERTONE_KAFKA", kafka)
        environment.setenv("UNDERTONE_REDIS", redis_server)
        environment.setenv("UNDERTONE_KAFKA_PARTITIONS", "2")
        environment.setenv("UNDERTONE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("UNDERTONE_URL", f"http://127.0.0.1:{PORT}")
        with embedded(AppConfig(source="kafka"), port=PORT) as system:
            yield system


def undertone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a person runs it."""
    command = [str(Path(sys.executable).with_name("undertone")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FINAL_S, check=False)
    assert done.returncode == 0, done.stderr
    return done


def send(path: Path | str, call_id: str, *options: str) -> None:
    undertone("send", *str(path).split("\n"), "--source", "kafka", "--call-id", call_id, *options)


def held(system: Embedded) -> dict[str, str]:
    """The header that carries the system's token."""
    return {"Authorization": f"Bearer {token_of(system.settings)}"}


def utterances(system: Embedded, call_id: str, run: str = "live") -> list[dict[str, Any]]:
    wanted: dict[str, str | int] = {"limit": 500, "run": run}
    answer = httpx.get(f"{system.url}/v1/calls/{call_id}/utterances", params=wanted, headers=held(system), timeout=30)
    items: list[dict[str, Any]] = answer.json()["utterances"] if answer.status_code == 200 else []
    return items


def final_utterances(system: Embedded, call_id: str) -> list[dict[str, Any]]:
    """The call's utterances, once it is final."""

    def is_final() -> bool:
        answer = httpx.get(f"{system.url}/v1/calls/{call_id}", headers=held(system), timeout=30)
        return answer.status_code == 200 and answer.json()["status"] == "final"

    wait_until(is_final, FINAL_S)
    return utterances(system, call_id)


def said(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must not depend on how a call was sent: who, when, words, score and emotion."""
    return [
        (one["participant"], one["start_ms"], one["end_ms"], one["transcript"]["text"], one["judgement"])
        for one in found
    ]


@pytest.fixture(scope="module")
def undisturbed(running: Embedded) -> list[dict[str, Any]]:
    """The sample call, sent as fast as it goes."""
    send(ANGRY_TO_CONTENT, "fast", "--participants", "agent,customer")
    return final_utterances(running, "fast")


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 20 s of the sample call."""
    sound, rate_hz = soundfile.read(ANGRY_TO_CONTENT)
    path = tmp_path_factory.mktemp("beginning") / "beginning.wav"
    soundfile.write(path, sound[: 20 * rate_hz], rate_hz)
    return path


@pytest.fixture(scope="module")
def begun(running: Embedded, beginning: Path) -> list[dict[str, Any]]:
    """That beginning, sent as fast as it goes."""
    send(beginning, "begun", "--participants", "agent,customer")
    return final_utterances(running, "begun")


def test_the_sample_call_moves_from_angry_to_content(undisturbed: list[dict[str, Any]]) -> None:
    customer = [one for one in undisturbed if one["participant"] == "customer"]
    agent = [one for one in undisturbed if one["participant"] == "agent"]
    assert len(customer) >= 6
    assert len(agent) >= 6
    scores = [one["judgement"]["score"] for one in customer if one["judgement"]]
    assert max(scores[:2]) < 0
    assert min(scores[-2:]) > 0
    assert all(one["modalities"]["audio"]["missing"] == "not_consented" for one in agent)
    assert any(one["modalities"]["audio"]["used"] for one in customer)


def test_twice_and_in_real_time_gives_the_same_utterances(
    running: Embedded, undisturbed: list[dict[str, Any]], beginning: Path, begun: list[dict[str, Any]]
) -> None:
    parties = ("--participants", "agent,customer")
    with pytest.raises(AssertionError, match="has a stream 'main' already, and nothing was sent"):
        send(ANGRY_TO_CONTENT, "fast", *parties)
    send(ANGRY_TO_CONTENT, "again", *parties)
    send(beginning, "live", *parties, "--pace", "realtime")
    assert said(final_utterances(running, "fast")) == said(undisturbed)
    assert said(final_utterances(running, "again")) == said(undisturbed)
    live = said(final_utterances(running, "live"))
    assert live == said(begun)
    assert len(live) >= 4


def test_killing_the_ingest_replica_in_the_middle_changes_nothing(
    running: Embedded, undisturbed: list[dict[str, Any]]
) -> None:
    ingest = serve.get_deployment_handle("Ingest", APP_NAME)
    send(ANGRY_TO_CONTENT, "torn", "--participants", "agent,customer")
    wait_until(lambda: len(utterances(running, "torn")) >= 2, FINAL_S)
    os.kill(ingest.pid.remote().result(timeout_s=30), signal.SIGKILL)
    assert len(utterances(running, "torn")) < len(undisturbed), "killed too late to prove anything"
    assert said(final_utterances(running, "torn")) == said(undisturbed)


def test_the_real_call_gives_results_for_both_parties(running: Embedded, data_dir: Path) -> None:
    calls = data_dir / "calls"
    parties = f"{calls / 'auto_repairs_40_agent.flac'}\n{calls / 'auto_repairs_40_caller.flac'}"
    send(parties, "repairs", "--participants", "agent,customer")
    found = final_utterances(running, "repairs")
    by_party = {party: [one for one in found if one["participant"] == party] for party in ("agent", "customer")}
    assert min(map(len, by_party.values())) >= 10
    assert sum(one["modalities"]["audio"]["used"] for one in by_party["customer"]) >= 10
    assert sum(one["modalities"]["text"]["used"] for one in found) >= 10


@pytest.mark.parametrize("clip", ["talk_may", "talk_2", "talk_hdtf", "mead_m030_sad"])
def test_a_talking_head_uses_voice_and_face(running: Embedded, data_dir: Path, clip: str) -> None:
    send(data_dir / "clips" / f"{clip}.mp4", clip, "--participants", "customer")
    found = final_utterances(running, clip)
    assert any(one["modalities"]["audio"]["used"] and one["modalities"]["video"]["used"] for one in found)


def test_an_encoder_that_is_killed_costs_a_recording_nothing(
    running: Embedded, beginning: Path, begun: list[dict[str, Any]]
) -> None:
    encoder = serve.get_deployment_handle("AudioEncoder", APP_NAME)
    send(beginning, "deaf", "--participants", "agent,customer")
    os.kill(encoder.pid.remote().result(timeout_s=30), signal.SIGKILL)
    found = final_utterances(running, "deaf")
    assert [one["start_ms"] for one in found] == [one["start_ms"] for one in begun]
    reasons = {one["modalities"]["audio"]["missing"] for one in found if one["participant"] == "customer"}
    assert reasons == {None}  # nobody waits for it: it is tried again until the encoder is back


@pytest.mark.parametrize("endless", [b"X-1: a\r\n" * 1_024, b"a" * 8_192])
def test_headers_without_an_end_are_cut_off(running: Embedded, endless: bytes) -> None:
    """By h11: `tests/deployments/http/test_api_hostile.py` measures what they would cost else."""
    with socket.create_connection(("127.0.0.1", PORT), 30) as sender, contextlib.suppress(ConnectionError):
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nX: ")
        while not select.select([sender], [], [], 0)[0]:
            sender.sendall(endless)
        assert sender.recv(1_024).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{running.url}/healthz", timeout=30).status_code == 200


def test_health_readiness_and_metrics(running: Embedded, undisturbed: list[dict[str, Any]]) -> None:
    assert undisturbed
    health = httpx.get(f"{running.url}/healthz", timeout=30)
    assert health.status_code == 200
    assert "whisper-base/ctranslate2-" in health.text
    assert httpx.get(f"{running.url}/readyz", timeout=30).status_code == 200
    page = httpx.get(f"{running.url}/metrics", headers=held(running), timeout=30).text
    assert "undertone_utterances_total" in page
    assert "undertone_stored_latency_seconds_bucket" in page


def test_analyze_prints_one_result_a_line_and_says_what_was_used(data_dir: Path) -> None:
    clip = data_dir / "clips" / "mead_m030_sad.mp4"
    printed = undertone("analyze", str(clip), "--json").stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    assert lines
    for line in lines:
        for modality in ("text", "audio", "video"):
            outcome = line["modalities"][modality]
            assert outcome["used"] or outcome["missing"]


def test_a_sender_that_vanishes_leaves_what_it_sent(running: Embedded, undisturbed: list[dict[str, Any]]) -> None:
    """Its connection is reset in the middle of the call: what came before is analysed, and the call ends there."""
    order = json.dumps({"participants": "agent,customer"})
    with sync_client.connect(
        f"ws://127.0.0.1:{PORT}/v1/calls/vanished/media", additional_headers=held(running)
    ) as sender:
        sender.send(order)
        assert json.loads(sender.recv(30))["call_id"] == "vanished"
        media = ANGRY_TO_CONTENT.read_bytes()
        for start in range(0, len(media) // 2, 4_096):
            sender.send(media[start : start + 4_096])
        while not utterances(running, "vanished"):
            sender.ping().wait(0.2)
        sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sender.socket.close()
    found = said(final_utterances(running, "vanished"))
    assert 2 <= len(found) < len(undisturbed)
    # The last utterance of each party may have been cut short.
    assert set(map(str, found[:-2])) < set(map(str, said(undisturbed)))


def test_a_shadow_judges_the_same_calls_under_its_own_name(running: Embedded, beginning: Path) -> None:
    config = AppConfig(source="kafka", run="next", share=0.999)
    serve.run(build_shadow(config), name="shadow", route_prefix=None)
    try:
        send(beginning, "watched", "--participants", "agent,customer")
        live = said(final_utterances(running, "watched"))
        wait_until(lambda: len(utterances(running, "watched", run="next")) >= len(live), FINAL_S)
        shadowed = utterances(running, "watched", run="next")
    finally:
        serve.delete("shadow")
    assert said(shadowed) == live
    compared = json.loads(undertone("compare", "live", "next", "--call", "watched", "--json").stdout)
    assert (compared["calls"], compared["polarity_agreement"], compared["only_in"]) == (1, 1.0, [0, 0])


def test_the_books_of_all_these_calls_balance(running: Embedded, undisturbed: list[dict[str, Any]]) -> None:
    assert running
    assert undisturbed
    report = json.loads(undertone("audit", "--source", "kafka", "--json").stdout)
    assert report["findings"] == []
    assert report["utterances"] >= len(undisturbed)
    assert report["analysed"] > 0
