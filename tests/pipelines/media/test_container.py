"""Untrusted media is opened with no way to another file, and only for what FFmpeg can decode."""

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.errors import MediaError, ParticipantsError
from pipelines.media.container import (
    PICTURE_DECODERS,
    SOUND_DECODERS,
    open_media,
    packets,
    rounded,
    skipped_samples,
    tracks_of,
)
from pipelines.types import Channels
from tests.pipelines.media_files import AGENT, BOTH, CUSTOMER, MIXED, film, sound, two_tracks

PIXELS_MAX = 1920 * 1080


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXTINF:1,\n{}\n",
        "ffconcat version 1.0\nfile '{}'\n",
        (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
            "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        ),
    ],
    ids=["HLS", "concat", "DASH"],
)
def test_a_playlist_opens_no_other_file(playlist: str, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(film("wav", sound_codec="pcm_s16le", samples=sound(1, 16_000)))
    with pytest.raises(MediaError, match="no media that FFmpeg can open"):  # noqa: SIM117
        with open_media(io.BytesIO(playlist.format(other).encode()), "the upload", PIXELS_MAX):
            pass


def test_the_first_sound_and_the_first_moving_picture_count() -> None:
    whole = film(
        "matroska", picture_codec="libx264", sound_codec="flac", samples=sound(1, 16_000), seconds=1, key_every=25
    )
    with open_media(io.BytesIO(whole), "the film", PIXELS_MAX) as container:
        tracks = tracks_of(container, (CUSTOMER,), "the film")
        assert [stream.type for stream in tracks.streams] == ["video", "audio"]
        read = list(packets(container, *tracks.streams))
        # PyAV's streams live as long as their container.
        assert {packet.stream_index for packet in read} == {stream.index for stream in tracks.streams}
    assert all(packet.size for packet in read)


def test_media_that_stays_undecoded_is_known_by_its_header_alone() -> None:
    whole = film("matroska", picture_codec="libx264", sound_codec=None, samples=None, seconds=2, key_every=5)
    read = []
    for undecoded in (False, True):
        with open_media(io.BytesIO(whole), "the film", PIXELS_MAX, undecoded=undecoded) as container:
            codec = container.streams.video[0].codec_context
            # FFmpeg learns the kind of H.264's pixels from a picture that it has begun to decode.
            assert (codec.format is None) == undecoded
            times = [
                (packet.pts, packet.is_keyframe, bytes(packet)) for packet in packets(container, *container.streams)
            ]
            read.append((codec.width, codec.height, codec.extradata, times))
    assert read[0] == read[1]


@given(st.fractions(-(10**6), 10**6, max_denominator=200_000), st.integers(1, 192_000))
@example(Fraction(1, 2), 1)
@example(Fraction(3, 2), 1)
@example(Fraction(-1, 2), 1)
@example(Fraction(1, 4), 1000)
def test_times_are_rounded_as_fractions_are(time_s: Fraction, rate_hz: int) -> None:
    assert rounded(time_s, rate_hz) == round(time_s * rate_hz)


def test_a_file_without_either_is_named() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        output.add_attachment("words.txt", "text/plain", b"words")
        output.start_encoding()
    with pytest.raises(MediaError, match="the upload"):  # noqa: SIM117
        with open_media(io.BytesIO(file.getvalue()), "the upload", PIXELS_MAX) as container:
            tracks_of(container, (CUSTOMER,), "the upload")


def test_an_encoders_delay_is_what_its_first_packet_says_to_skip() -> None:
    whole = film("ogg", sound_codec="libopus", samples=sound(1, 48_000), rate_hz=48_000)
    with open_media(io.BytesIO(whole), "the sound", PIXELS_MAX) as container:
        read = list(packets(container, container.streams.audio[0]))
    assert skipped_samples(read[0]) == (312, 0)  # RFC 7845 §4.2: the pre-skip, which libopus sets to 6.5 ms
    assert skipped_samples(read[1]) == (0, 0)


@pytest.mark.parametrize("codec", ["png", "gif", "tiff", "qtrle"])
def test_a_codec_that_calls_do_not_use_is_neither_decoded_nor_looked_at(codec: str) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream(codec, rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 32, 32
        stream.pix_fmt = "pal8" if codec == "gif" else "rgb24"
        for number in range(3):
            frame = av.VideoFrame(32, 32, stream.pix_fmt)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with (
        open_media(io.BytesIO(file.getvalue()), "it", 10_000) as container,
        pytest.raises(MediaError, match=f"codec {codec}, which is not decoded"),
    ):
        tracks_of(container, (CUSTOMER,), "it")


def test_every_decoder_that_is_named_is_one_of_ffmpegs_or_is_another_builds() -> None:
    named = {*SOUND_DECODERS.split(","), *PICTURE_DECODERS.split(",")}
    assert named - av.codecs_available <= {"libspeex"}


def heard(whole: bytes, participants: Channels) -> list[tuple[int, Channels]]:
    """The number of each sound track that is heard, and who is on it."""
    with open_media(io.BytesIO(whole), "it", PIXELS_MAX) as container:
        return [(track.stream.index, track.participants) for track in tracks_of(container, participants, "it").sounds]


FROM, TO = "AUDIO_FROM_CUSTOMER", "AUDIO_TO_CUSTOMER"


@pytest.mark.parametrize(
    ("whole", "participants", "expected"),
    [
        (two_tracks(), BOTH, [(0, (AGENT,)), (1, (CUSTOMER,))]),
        (two_tracks(), (None, CUSTOMER), [(1, (CUSTOMER,))]),
        (two_tracks(empty=(0,)), BOTH, [(0, (AGENT,)), (1, (CUSTOMER,))]),
        (two_tracks(empty=(0,)), (CUSTOMER,), [(1, (CUSTOMER,))]),
        (two_tracks(empty=(1,)), (CUSTOMER,), [(0, (CUSTOMER,))]),
        (two_tracks(default=1), (CUSTOMER,), [(1, (CUSTOMER,))]),
        (two_tracks(("", "", ""), default=2), (MIXED,), [(2, (MIXED,))]),
        (two_tracks(channels=2), BOTH, [(0, (AGENT,)), (1, (CUSTOMER,))]),
        (two_tracks(channels=2), (AGENT, None, None, CUSTOMER), [(0, (AGENT, None)), (1, (None, CUSTOMER))]),
        (two_tracks(channels=2), (None, None, AGENT, CUSTOMER), [(1, (AGENT, CUSTOMER))]),
        (two_tracks((TO, FROM)), (CUSTOMER,), [(1, (CUSTOMER,))]),
        (two_tracks((FROM, TO)), BOTH, [(0, (CUSTOMER,)), (1, (AGENT,))]),
        (two_tracks((FROM.lower(), TO.lower()), default=1), (MIXED,), [(0, (CUSTOMER,)), (1, (AGENT,))]),
        (two_tracks((TO, FROM)), (AGENT, None), [(0, (AGENT,))]),
        (two_tracks(("music", FROM)), (CUSTOMER,), [(1, (CUSTOMER,))]),
        (two_tracks((TO,)), (MIXED,), [(0, (AGENT,))]),
        (two_tracks((TO,)), (AGENT,), [(0, (AGENT,))]),
        (two_tracks((FROM, TO, "")), (AGENT, CUSTOMER, None), [(0, (CUSTOMER,)), (1, (AGENT,))]),
        (two_tracks((FROM, "")), (CUSTOMER, AGENT), [(0, (CUSTOMER,)), (1, (AGENT,))]),
        (two_tracks(("one",), channels=2), (CUSTOMER,), [(0, (CUSTOMER,))]),
        (two_tracks(("one",), channels=2), (None, CUSTOMER), [(0, (None, CUSTOMER))]),
    ],
)
def test_a_sound_track_is_that_of_whom_it_says(
    whole: bytes, participants: Channels, expected: list[tuple[int, Channels]]
) -> None:
    assert heard(whole, participants) == expected


@pytest.mark.parametrize(
    ("whole", "participants"),
    [
        (two_tracks(), (CUSTOMER,)),
        (two_tracks(), (MIXED,)),
        (two_tracks(("", "", "")), BOTH),
        (two_tracks((TO,)), (CUSTOMER,)),
        (two_tracks((TO,), channels=2), BOTH),
        (two_tracks((FROM, "")), BOTH),
        (two_tracks(("", FROM)), (CUSTOMER, AGENT)),
        (two_tracks((FROM, FROM)), (CUSTOMER,)),
        (two_tracks((TO, FROM)), (AGENT, MIXED)),
    ],
)
def test_no_sound_track_is_taken_for_anothers(whole: bytes, participants: Channels) -> None:
    with pytest.raises(MediaError, match=r"sound tracks \(1: flac, . channel.* name one participant a track"):
        heard(whole, participants)


def test_channels_that_are_named_must_be_there() -> None:
    for participants in (BOTH, (None, CUSTOMER), (AGENT, CUSTOMER, None)):
        with pytest.raises(MediaError, match=r"participants on 1 channel\(s\).* - leaves a channel out"):
            heard(two_tracks(("one",)), participants)


def test_a_track_that_nothing_can_decode_is_not_taken_for_empty() -> None:
    whole = two_tracks()
    other = whole.replace(b"A_FLAC", b"A_NEW1", 1)
    assert other != whole
    with open_media(io.BytesIO(other), "it", PIXELS_MAX) as container:
        assert container.streams.audio[0].codec_context is None
        with pytest.raises(ParticipantsError, match="does not say who is on each"):
            tracks_of(container, (CUSTOMER,), "it")
