from collections.abc import AsyncIterator

import pytest

from deployments.http.bodies import Accepted
from tests.deployments.http.site import Site, problem, wav
from tests.pipelines.media_files import sound


async def test_a_form_with_its_file_last_is_an_upload_too(site: Site) -> None:
    answer = await site.client.post(
        "/v1/calls?tenant=acme",
        data={"participants": "customer", "stream": "webcam", "tenant": "acme", "start_ms": "5000"},
        files={"file": ("call.wav", wav(sound(1.5, 8000)), "text/plain")},
    )

    accepted = Accepted.model_validate(answer.json())
    found = site.fragments()
    assert accepted.stream == "webcam"
    assert {(piece.call_id, piece.tenant, piece.stream) for piece in found} == {(accepted.call_id, "acme", "webcam")}
    assert {piece.consent for piece in found} == {None}
    assert found[0].start_ms == 5000


async def test_the_fields_of_a_form_may_not_follow_its_file(site: Site) -> None:
    parts: list[tuple[str, tuple[str | None, bytes]]] = [
        ("file", ("a.wav", wav(sound(0.5, 8000)))),
        ("participants", (None, b"customer")),
    ]
    answer = await site.client.post("/v1/calls?participants=customer", files=parts)

    assert "last" in problem(answer, 400, "fields_after_file")["detail"]


@pytest.mark.parametrize("path", ["/v1/calls?participants=customer", "/v1/analyze"])
@pytest.mark.parametrize("value", ["", "x" * 100])
async def test_what_stands_before_the_file_of_a_form_is_bounded(site: Site, path: str, value: str) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(10_000):
            part = f'--x\r\nContent-Disposition: form-data; name="{number:0100}"\r\n\r\n{value}\r\n'.encode()
            read += len(part)
            yield part

    answer = await site.client.post(path, content=body(), headers={"content-type": "multipart/form-data; boundary=x"})

    problem(answer, 413, "oversize")
    assert read < 70_000


async def test_a_form_cut_off_is_refused(site: Site) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    answer = await site.client.post(
        "/v1/calls?participants=customer",
        content=body,
        headers={"content-type": "multipart/form-data; boundary=x"},
    )

    problem(answer, 400, "bad_form")


@pytest.mark.parametrize("path", ["/v1/calls?participants=customer", "/v1/analyze"])
@pytest.mark.parametrize(
    ("boundary", "status"),
    [("x" * 70, 202), ("x" * 71, 400), ("x" * 256, 400), ("x" * 257, 400), ("x" * 5_000, 400), ("", 400)],
)
async def test_a_boundary_is_as_long_as_it_may_be_or_the_form_is_refused(
    site: Site, path: str, boundary: str, status: int
) -> None:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
    body = head + wav(sound(0.5, 8000)) + f"\r\n--{boundary}--\r\n".encode()
    kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
    answer = await site.client.post(path, content=body, headers=kind)

    if status == 400:
        problem(answer, 400, "bad_form")
    else:
        assert answer.is_success


@pytest.mark.parametrize("head", ["Content-Transfer-Encoding: base64", "content-encoding: gzip"])
async def test_a_part_that_is_encoded_is_refused(site: Site, head: str) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n{head}\r\n\r\nUklGRg==\r\n--x--\r\n'
    answer = await site.client.post(
        "/v1/calls?participants=customer", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )

    assert "encoded" in problem(answer, 400, "bad_form")["detail"]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("call.ulaw", "application/octet-stream", "audio/PCMU"),
        ("call.sln16", None, "audio/x-sln;rate=16000"),
        ("call.ulaw", "audio/PCMA", "audio/PCMA"),
        ("call.bin", "audio/x-mulaw", "audio/x-mulaw"),
    ],
)
async def test_the_name_of_a_file_says_what_raw_sound_it_holds(
    site: Site, name: str, kind: str | None, expected: str
) -> None:
    part = (name, bytes(32_000)) if kind is None else (name, bytes(32_000), kind)
    answer = await site.client.post("/v1/calls?participants=customer", files={"file": part})

    assert answer.status_code == 202
    assert {piece.content_type for piece in site.fragments()} == {expected}


async def test_a_container_in_a_form_is_opened_whatever_its_name_says(site: Site) -> None:
    parts = {"file": ("call.ulaw", wav(sound(0.5, 8000)))}
    answer = await site.client.post("/v1/calls?participants=customer", files=parts)

    assert answer.status_code == 202
    assert {piece.content_type for piece in site.fragments()} == {"audio/x-matroska"}
