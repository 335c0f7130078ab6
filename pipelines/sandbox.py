"""A fragment's media decoded in a process of its own, to see whether it is the media that kills.

A worker dies for many reasons; a fragment that was at work when two of them died is suspect, not guilty. The trial
costs half a second and is asked for only then.
"""

import json
import resource
import subprocess
import sys

from pipelines.demux import Demuxer
from pipelines.errors import MediaError
from pipelines.records import fragment_headers, parse_record
from pipelines.settings import StreamSettings
from pipelines.types import Coordinates, MediaFragment, Record

TRIAL_S = 60
MEMORY_MAX_BYTES = 4 << 30


def trial(fragment: MediaFragment, settings: StreamSettings) -> str | None:
    """How the process ended that decoded `fragment` by itself; None when it lived.

    A fragment that is refused with an error has not killed anybody.
    """
    headers = [(name, value.decode()) for name, value in fragment_headers(fragment)]
    order = {"call_id": fragment.call_id, "headers": headers, "settings": settings.model_dump(mode="json")}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.sandbox"],
            input=json.dumps(order).encode() + b"\n" + fragment.media,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"still decoding after {TRIAL_S} s"
    if done.returncode == 0:
        return None
    return f"the decoding process ended with {done.returncode}: {done.stderr[-300:].decode(errors='replace').strip()}"


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


if __name__ == "__main__":
    main()
