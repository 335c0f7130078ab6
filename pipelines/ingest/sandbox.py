"""A fragment's media decoded in a process of its own, to see whether it is the media that kills.

A worker dies for many reasons; a fragment that was at work when two of them died is suspect, not guilty. The trial
costs half a second and is asked for only then.
"""

import json
import logging
import resource
import signal
import subprocess
import sys

from pipelines.errors import MediaError
from pipelines.log.records import fragment_headers, parse_record
from pipelines.media.demux import Demuxer
from pipelines.settings import StreamSettings
from pipelines.types import Coordinates, MediaFragment, Record

TRIAL_S = 60
MEMORY_MAX_BYTES = 4 << 30
OUT_OF_MEMORY = 137

logger = logging.getLogger(__name__)


def trial(fragment: MediaFragment, settings: StreamSettings) -> str | None:
    """How the process ended that decoded `fragment` by itself; None when it was not the media that ended it.

    A fragment that is refused with an error has not killed anybody, and a process that could not even begin says
    nothing about it.
    """
    headers = [(name, value.decode()) for name, value in fragment_headers(fragment)]
    order = {"call_id": fragment.call_id, "headers": headers, "settings": settings.model_dump(mode="json")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.ingest.sandbox"],
            input=json.dumps(order).encode() + b"\n" + fragment.media,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"still decoding after {TRIAL_S} s"
    said = done.stderr[-300:].decode(errors="replace").strip()
    if done.returncode < 0:
        return f"the decoding process was ended by {signal.Signals(-done.returncode).name} {said}".strip()
    if done.returncode == OUT_OF_MEMORY:
        return f"the decoding process wanted more than {MEMORY_MAX_BYTES >> 30} GiB"
    if done.returncode:
        logger.error("a trial of call %s ended with %d and tells nothing: %s", fragment.call_id, done.returncode, said)
    return None


def main() -> None:
    """Decode the fragment on standard input; exits with 0 when that ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX_BYTES, MEMORY_MAX_BYTES))
    order = json.loads(sys.stdin.buffer.readline())
    headers = tuple((name, value.encode()) for name, value in order["headers"])
    settings = StreamSettings.model_validate(order["settings"])
    record = Record(Coordinates(0, 0), order["call_id"].encode(), sys.stdin.buffer.read(), headers, 0)
    demuxer = Demuxer(settings)
    try:
        demuxer.feed(parse_record(record, settings.limits))
        demuxer.finish()
    except MediaError:
        return
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
