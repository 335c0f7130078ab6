"""Parts on a hub, served here by a local one; the client reads its settings when it is imported, so each try is a process."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from models import checkpoint
from models.bundles import INDEX
from models.bundles.hub import fetched
from models.encoders.text import SPECIAL, TextConfig, TextNetwork
from models.errors import BundleError

REPOSITORY, COMMIT, FILE = "someone/words", "0123456789abcdef0123456789abcdef01234567", "words.safetensors"
TEXT = TextConfig(vocabulary=(*SPECIAL, "hello"), width=8, layers=1, heads=2, hidden=8, pieces_max=8)
PROGRAM = """
import sys
from pathlib import Path
from models.bundles import load_bundle, load_encoder
from models.errors import ModelError
from models.types import Modality
try:
    print(len(load_encoder(load_bundle(Path(sys.argv[1])), Modality.TEXT).encode(["hello"])))
except ModelError as error:
    print(error)
"""


class Hub:
    """What the client asks of a hub: the head of a file, and the file."""

    def __init__(self, content: bytes) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                is_there = self.path == f"/{REPOSITORY}/resolve/{COMMIT}/{FILE}"
                self.send_response(200 if is_there else 404)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", '"1"')
                self.send_header("Content-Length", str(len(content)) if is_there else "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def weights(tmp_path: Path) -> tuple[bytes, str]:
    torch.manual_seed(0)
    sha256 = checkpoint.save(tmp_path / FILE, TextNetwork(TEXT).state_dict(), TEXT, name="text")
    return (tmp_path / FILE).read_bytes(), sha256


@pytest.fixture
def hub(weights: tuple[bytes, str]) -> Iterator[Hub]:
    made = Hub(weights[0])
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def tried(tmp_path: Path, sha256: str, endpoint: str, *, revision: str = COMMIT, file: str = FILE) -> str:
    """What a process says that loads a bundle whose words are on the hub, with a cache under `tmp_path`."""
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    entry = {"repository": REPOSITORY, "revision": revision, "files": {file: sha256}}
    index = {"format": 2, "name": "mine", "version": "1", "parts": {"text": entry}}
    (folder / INDEX).write_text(json.dumps(index))
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": ""}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_file_at_a_commit_is_fetched_once_and_then_serves_without_a_hub(
    tmp_path: Path, hub: Hub, weights: tuple[bytes, str]
) -> None:
    assert tried(tmp_path, weights[1], hub.url) == "1"
    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/{FILE}" in hub.asked
    hub.asked.clear()

    assert tried(tmp_path, weights[1], "http://127.0.0.1:9") == "1"
    assert hub.asked == []


@pytest.mark.slow
def test_a_file_that_is_not_the_one_meant_is_refused(tmp_path: Path, hub: Hub) -> None:
    assert "changed or cut off" in tried(tmp_path, "0" * 64, hub.url)


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", ""])
def test_what_cannot_be_fetched_says_how_to_bring_it(tmp_path: Path, hub: Hub, endpoint: str) -> None:
    said = tried(tmp_path, "0" * 64, endpoint or hub.url, file=FILE if endpoint else "other.safetensors")
    assert "is not in this machine's cache and cannot be fetched" in said
    assert f"`hf download {REPOSITORY}" in said


@pytest.mark.parametrize(
    ("repository", "revision", "complaint"),
    [
        (REPOSITORY, "main", "can be moved: write the commit"),
        (REPOSITORY, COMMIT[:7], "can be moved"),
        ("words", COMMIT, "write OWNER/NAME"),
        ("../words", COMMIT, "write OWNER/NAME"),
    ],
)
def test_a_revision_that_can_be_moved_is_refused(repository: str, revision: str, complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        fetched(repository, revision, FILE, 1)


@pytest.mark.slow
def test_a_file_that_is_too_large_is_not_fetched(tmp_path: Path, hub: Hub) -> None:
    program = f"""
from models.bundles.hub import fetched
from models.errors import BundleError
try:
    fetched({REPOSITORY!r}, {COMMIT!r}, {FILE!r}, 9)
except BundleError as error:
    print(error)
"""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "9 bytes are allowed" in done.stdout
    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/{FILE}" not in hub.asked
