"""From an analysis' media to utterances; runs in a process of its own and imports nothing of a server."""

import contextlib
import io

import numpy as np

from deployments.http.bodies import MediaMetadata
from deployments.http.pictures import picture_codec, read_picture
from models.types import Modality
from pipelines.media.fragment import fragments
from pipelines.media.raw_audio import names_raw_audio
from pipelines.media.utterances import utterances_of
from pipelines.settings import StreamSettings
from pipelines.types import Consent, Participant, Utterance, VideoFrame

CALL_ID = "analyze"


def decoded(  # noqa: PLR0917  # what goes to another process goes by position
    media: bytes,
    content_type: str | None,
    metadata: MediaMetadata,
    consent: Consent,
    settings: StreamSettings,
    media_max_ms: int,
    decode_max_s: float,
) -> list[Utterance]:
    """The utterances of a recording, or one for a picture; the limits are those of `utterances_of`.

    Raises:
        MediaError: it is no media, or passes a limit of `settings` or `decode_max_s`.
        MediaTooLongError: it is longer than `media_max_ms`.
    """
    if not names_raw_audio(content_type or "") and picture_codec(media[:16]) is not None:
        participant = metadata.speaker()
        frame = VideoFrame(participant, 0, read_picture(media, settings))
        return [utterance(metadata, consent, participant, frames=(frame,))]
    pieces = fragments(
        io.BytesIO(media),
        call_id=metadata.call_id or CALL_ID,
        tenant=metadata.tenant,
        stream=metadata.stream,
        participants=metadata.participant_list(),
        consent=consent,
        content_type=content_type,
        start_ms=metadata.start_ms,
        recorded=True,
    )
    with contextlib.closing(pieces):  # type: ignore[type-var]  # a generator, which has `close`
        return list(
            utterances_of(pieces, settings, policy=consent, media_max_ms=media_max_ms, decode_max_s=decode_max_s)
        )


def utterance(
    metadata: MediaMetadata,
    consent: Consent,
    participant: Participant,
    *,
    frames: tuple[VideoFrame, ...] = (),
    text: str | None = None,
) -> Utterance:
    """One that has no sound."""
    return Utterance(
        call_id=metadata.call_id or CALL_ID,
        tenant=metadata.tenant,
        stream=metadata.stream,
        participant=participant,
        start_ms=metadata.start_ms,
        end_ms=metadata.start_ms,
        consent=consent.get(participant, frozenset[Modality]()),
        samples=np.zeros(0, np.float32),
        frames=frames,
        text=text,
        recorded=True,
    )
