"""The utterances of media that is whole already, without a log and a store: files, uploads, benchmarks."""

from collections.abc import Iterable, Iterator

from pipelines.errors import MediaTooLongError
from pipelines.media.call_stream import NEW_STREAM, CallStream
from pipelines.settings import StreamSettings
from pipelines.types import DEFAULT_CONSENT, Consent, MediaFragment, Utterance


def utterances_of(
    fragments: Iterable[MediaFragment],
    settings: StreamSettings,
    *,
    policy: Consent = DEFAULT_CONSENT,
    media_max_ms: int | None = None,
) -> Iterator[Utterance]:
    """Every utterance of one new stream, in the order in which they end, without a log and a store.

    `policy` is the most that may be analysed, whatever the fragments ask for.

    Raises:
        MediaError: a fragment cannot be opened.
        MediaTooLongError: there is more than `media_max_ms` of media.
    """
    stream = CallStream(settings, NEW_STREAM, policy)
    media_ms = 0
    for fragment in fragments:
        fed = stream.feed(fragment)
        media_ms += fed.media_ms
        if media_max_ms is not None and media_ms > media_max_ms:
            raise MediaTooLongError(f"longer than {media_max_ms // 1000} s")
        yield from (event.utterance for event in fed.events if event.utterance is not None)
    yield from (event.utterance for event in stream.finish() if event.utterance is not None)
