"""The utterances of media that is whole already, without a log and a store: files, uploads, benchmarks."""

import math
import time
from collections.abc import Iterable, Iterator

from pipelines.checkpoints import NEW_STREAM
from pipelines.errors import MediaError, MediaTooLongError
from pipelines.media.call_stream import CallStream
from pipelines.settings import StreamSettings
from pipelines.types import DEFAULT_CONSENT, Consent, MediaFragment, Utterance


def utterances_of(
    fragments: Iterable[MediaFragment],
    settings: StreamSettings,
    *,
    policy: Consent = DEFAULT_CONSENT,
    media_max_ms: int | None = None,
    decode_max_s: float = math.inf,
) -> Iterator[Utterance]:
    """Every utterance of one new stream, in the order in which they end, without a log and a store.

    `policy` is the most that may be analysed, whatever the fragments ask for.

    Raises:
        MediaError: a fragment cannot be opened, or all of them take more than `decode_max_s` of this thread's processor time.
        MediaTooLongError: there is more than `media_max_ms` of media.
    """
    stream = CallStream(settings, NEW_STREAM, policy)
    media_ms, began_s = 0, time.thread_time()
    for fragment in fragments:
        fed = stream.feed(fragment)
        media_ms += fed.media_ms
        if media_max_ms is not None and media_ms > media_max_ms:
            raise MediaTooLongError(f"longer than {media_max_ms // 1000} s")
        if time.thread_time() - began_s > decode_max_s:
            raise MediaError(
                f"decoding takes more than {decode_max_s:g} s of processor time; send it in a faster codec"
            )
        yield from (event.utterance for event in fed.events if event.utterance is not None)
    yield from (event.utterance for event in stream.finish() if event.utterance is not None)
