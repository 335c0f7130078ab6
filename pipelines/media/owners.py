"""Who is on which sound track (docs/architecture.md#sound-tracks): none is taken for another's."""

import re
from itertools import islice

from av.audio.stream import AudioStream
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from pipelines.errors import ParticipantsError
from pipelines.types import Channels, Participant, format_participants

TRACK_TITLES = {"AUDIO_FROM_CUSTOMER": Participant.CUSTOMER, "AUDIO_TO_CUSTOMER": Participant.AGENT}
"""Who is on a sound track of that title, as Amazon Connect's streams of Kinesis Video have them (Amazon Connect, Administrator Guide,
"Live media streaming")."""
NAMED_MAX = 8
"""So many tracks are named in an error."""


def owners(
    sounds: list[AudioStream], participants: Channels, what: str, silent: frozenset[int] = frozenset()
) -> list[tuple[AudioStream, Channels]]:
    """Who is on which track: one for all of its channels, or one for each; nobody, `()`, where that holds only as long as it sends nothing.

    The tracks of the indexes `silent` are taken for empty.

    Raises:
        ParticipantsError: it is not clear.
    """
    if not sounds or (found := _found(sounds, participants, silent)):
        return found if sounds else []
    channels = [_channels(stream) for stream in sounds]
    if len(sounds) == 1 and not any(_titled(sounds)):
        raise ParticipantsError(
            f"{len(participants)} participants on {channels[0]} channel(s): name one for each channel, or one for all; "
            "- leaves a channel out"
        )
    tracks = "; ".join(track_name(n, stream) for n, stream in enumerate(sounds[:NAMED_MAX], 1))
    raise ParticipantsError(
        f"{what} holds {len(sounds)} sound tracks ({tracks}), and {format_participants(participants)!r} does not say who is on each: "
        "name one participant a track, in order, such as agent,customer; - leaves a track out"
    )


def unclear(sounds: list[AudioStream], participants: Channels) -> tuple[list[AudioStream], int]:
    """The tracks of which it must be seen whether they send before it is clear what is heard, and how many of them that do are enough.

    A track that nobody named is never waited for.
    """
    found = _found(sounds, participants, frozenset())
    unknown = [stream for stream in sounds if is_unknown(stream)]
    if not found and len(participants) == 1 and len(sounds) > 1 and not any(_titled(sounds)):
        return sounds, 2
    waited_for = unknown if not found else [stream for stream, who in found if any(who) and stream in unknown]
    return waited_for, len(waited_for)


def is_unknown(stream: Stream) -> bool:
    """Whether its parameters, which no fragment can do without, have not come yet, as of a track that begins later."""
    if isinstance(stream, AudioStream):
        return stream.codec_context is not None and stream.codec_context.sample_rate == 0
    return isinstance(stream, VideoStream) and stream.codec_context is not None and stream.codec_context.width == 0


def _titled(sounds: list[AudioStream]) -> list[Participant | None]:
    return [TRACK_TITLES.get(stream.metadata.get("title", "").upper()) for stream in sounds]


def _found(
    sounds: list[AudioStream], participants: Channels, silent: frozenset[int]
) -> list[tuple[AudioStream, Channels]]:
    """Nothing where it is not clear."""
    titled = _titled(sounds)
    named = _by_title(sounds, titled, participants, silent) if any(titled) else _by_order(sounds, participants, silent)
    # What a track's title says is never overruled by where it stands.
    wrong = any(title and set(who) - {title, None} for (_, who), title in zip(named, titled, strict=False))
    return [] if wrong else named


def _by_title(
    sounds: list[AudioStream], titled: list[Participant | None], participants: Channels, silent: frozenset[int]
) -> list[tuple[AudioStream, Channels]]:
    """As the titles have it where they say enough, else in order; the caller looks whether both agree."""
    known = [who for who in titled if who is not None]
    wanted = {who for who in participants if who is not None}
    if participants == (Participant.MIXED,) and None not in titled:
        wanted = set(known)
    if len(set(known)) == len(known) and wanted <= set(known):
        return [(stream, (who if who in wanted else None,)) for stream, who in zip(sounds, titled, strict=True)]
    return _by_order(sounds, participants, silent) if len(sounds) > 1 and len(participants) > 1 else []


def _by_order(
    sounds: list[AudioStream], participants: Channels, silent: frozenset[int]
) -> list[tuple[AudioStream, Channels]]:
    """One a track, or one a channel, or one for the only track that can be meant; nothing where none of it fits."""
    channels = [_channels(stream) for stream in sounds]
    if len(participants) == len(sounds):
        return [(stream, (who,)) for stream, who in zip(sounds, participants, strict=True)]
    if 0 not in channels and len(participants) == sum(channels):
        who_is = iter(participants)
        return [(stream, tuple(islice(who_is, count))) for stream, count in zip(sounds, channels, strict=True)]
    if len(participants) != 1:
        return []
    full = [stream for stream in sounds if not _says_to_be_empty(stream) and stream.index not in silent]
    if len(full) == 1:
        return [(stream, participants if stream is full[0] else ()) for stream in sounds]
    defaults = [stream for stream in full if stream.disposition & Disposition.default]
    # Somebody's choice, as programs make the first one the default by themselves.
    if len(defaults) == 1 and defaults[0] is not sounds[0]:
        return [(stream, participants if stream is defaults[0] else (None,)) for stream in sounds]
    return []


def _channels(stream: AudioStream) -> int:
    """0 where nothing can decode it."""
    return 0 if stream.codec_context is None else stream.codec_context.channels


def track_name(number: int, stream: AudioStream) -> str:
    """Of the track of that place among the sound tracks, from 1 on."""
    codec = "unknown" if stream.codec_context is None else stream.codec_context.name
    title = "".join(c for c in stream.metadata.get("title", "")[:40] if c.isprintable())
    return f"{number}: {codec}, {_channels(stream)} channel(s){f', {title!r}' if title else ''}"


def _says_to_be_empty(stream: AudioStream) -> bool:
    """Whether the container itself says that the track has no packet: mkvmerge's and FFmpeg's tags, or MP4's index."""
    tags = stream.metadata
    if tags.get("NUMBER_OF_FRAMES") == "0" or re.fullmatch(r"[0:.]+", tags.get("DURATION", "-")):
        return True
    if stream.codec_context is None:  # nothing can decode it here: that is not to be empty
        return False
    return stream.codec_context.sample_rate == 0 or (stream.duration == 0 and stream.frames == 0)
