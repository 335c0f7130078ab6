"""Media as it really comes: each input, how it is sent, what is right, and what was found.

`python -m tests.pipelines.media.media_cases [PART OF A NAME] [--json FILE]` prints a table; it ends with 1 when one is wrong.
The shared inputs are those of the data folder (media_cases/README.md there); variants of their kinds are made in `media_variants`.
"""

import argparse
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from models.types import FloatArray
from pipelines.errors import MediaError
from pipelines.media.demux import Demuxer
from pipelines.media.utterances import utterances_of
from pipelines.settings import StreamSettings
from pipelines.types import SAMPLES_PER_MS, MediaFragment, Participant
from tests.pipelines.media_files import cut

FOLDER = "media_cases"
TOLERANCE_S = 0.25
PIPED_TOLERANCE_S = 0.05
"""The padding at the end of an MP3 is known only to who can look there first."""
BEING_BUILT = "being built"
Spans = tuple[tuple[float, float], ...]

CUSTOMER: Spans = ((1.12, 4.32), (5.12, 7.97), (9.12, 12.0))
AGENT: Spans = ((4.0, 6.47), (8.1, 9.1), (11.13, 12.0))
CLEAN = {"customer": CUSTOMER}
BOTH = {"agent": AGENT, "customer": CUSTOMER}


@dataclass(frozen=True)
class Sounds:
    """The clean sound of which variants are made, at 16 kHz."""

    customer: FloatArray = field(repr=False)
    """(N,) of one customer, 12 s."""
    stereo: FloatArray = field(repr=False)
    """(2, N): the agent on the left."""


Make = Callable[[Sounds], bytes]


@dataclass(frozen=True)
class Case:
    """One input. Where `right` and `error` are both there, either is right.

    `pictures_at_s` are times near which a picture must be; `besides` are files of the folder, or what makes them.
    """

    name: str
    right: dict[str, Spans] = field(default_factory=lambda: CLEAN)
    participants: str = "customer"
    sound_s: float | None = 12.0
    last_picture_s: float | None = None
    pictures_at_s: tuple[float, ...] = ()
    error: str | None = None
    warning: str | None = None
    content_type: str | None = None
    besides: tuple[str | Make, ...] = ()
    make: Make | None = field(default=None, repr=False)
    pending: str = ""
    """Why it may be wrong as yet."""

    @property
    def sent(self) -> str:
        more = f" + {len(self.besides)} file(s)" if self.besides else ""
        return self.participants + more + (f"; {self.content_type}" if self.content_type else "")


@dataclass
class Found:
    """What came of a case: utterances, where the sound of each participant ends, when pictures are; or the error."""

    utterances: dict[str, Spans] = field(default_factory=dict)
    sound_s: dict[str, float] = field(default_factory=dict)
    pictures_s: list[float] = field(default_factory=list)
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    piped: dict[str, Spans] | None = None
    """Utterances of the same bytes read from a pipe, where its fragments are other ones."""


SHARED = [
    Case("v_vfr_still_in_between.mp4", {"customer": ((1.12, 4.32), (14.11, 16.96), (24.12, 27.08))}, sound_s=30, last_picture_s=29.96),
    Case("v_fps1.mp4", last_picture_s=11),
    Case("p_1fps_still.mp4", last_picture_s=11),
    Case("a_kvs_two_tracks.mkv", BOTH, "agent,customer"),
    Case("a_kvs_two_tracks.mkv", CLEAN, "customer"),
    Case("a_default_is_second.mkv"),
    Case("a_first_track_empty.mkv"),
    Case("b_concat_1s_sessions.webm"),
    Case("c_chained_opus_short_links.ogg"),
    Case("w_sessions_picture_shorter.webm", {"customer": ((1.12, 4.32), (14.11, 16.96))}, sound_s=20, last_picture_s=18.96, pictures_at_s=(0, 5, 10, 15)),
    Case("f_lost_140ms_midword.mkv"),
    Case("g_agent_muted_gaps.mka", {"agent": AGENT, "customer": CUSTOMER[1:]}, "agent,customer", besides=("g_customer_join_4.5s.mka",)),
    Case("h_l16_be.raw", content_type="audio/L16;rate=16000"),
    Case("h_l16_le.raw", content_type="audio/L16;rate=16000;endian=little"),
    Case("h_l16_be.raw", content_type="audio/L16;rate=16000;endian=big", error="endian|big"),
    Case("e_out_of_phase.flac"),
    Case("j_rate_change.aac"),
    Case("o_speex.ogg"),
    Case("i_wav_neg1s.wav"),
    Case("i_wav_concat.wav"),
    Case("u_jump_10h.ts"),
    Case("y_bleed-20dB.flac", BOTH, "agent,customer"),
    Case("m_mulaw.raw", content_type="audio/x-mulaw"),
    Case("m_mulaw.raw", content_type="audio/basic"),
    Case("o_gsm_raw.gsm", content_type="audio/GSM"),
    Case("x_four_channels.flac", BOTH, "agent,customer,-,-"),
    Case("x_four_channels.flac", {}, "agent,customer", error="- leaves a channel out"),
    Case("x_clean_customer.flac"),
    Case("x_clean_stereo.flac", BOTH, "agent,customer"),
]  # fmt: skip


@cache
def clean_sounds(folder: Path) -> Sounds:
    """The clean sound of the data folder's media cases."""
    return Sounds(_read(folder / "x_clean_customer.flac")[0], _read(folder / "x_clean_stereo.flac"))


def _read(path: Path) -> FloatArray:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    channels = frames[0].layout.nb_channels
    samples = np.concatenate([frame.to_ndarray().reshape(-1, channels).T for frame in frames], axis=1)
    return np.ascontiguousarray(samples, dtype=np.float32) / np.float32(32768)


def run(case: Case, folder: Path) -> Found:
    """Sends the case as a file, as users do, and once more through a pipe."""
    sounds = clean_sounds(folder)
    media = (folder / case.name).read_bytes() if case.make is None else case.make(sounds)
    found = Found()
    with tempfile.TemporaryDirectory() as made:
        besides = [_beside(n, one, sounds, folder, Path(made)) for n, one in enumerate(case.besides)]
        try:
            cuts = _cut(case, io.BytesIO(media), besides, found.warnings)
            found.utterances = _utterances(cuts)
            _measure(cuts, found)
            piped = _cut(case, iter([media[at : at + 5000] for at in range(0, len(media), 5000)]), besides, [])
            if [one.media for one in piped] != [one.media for one in cuts]:
                found.piped = _utterances(piped)
        except MediaError as error:
            found.error = str(error)
        except Exception as error:  # noqa: BLE001 - that is a fault of its own, and goes into the table
            found.error = repr(error)
    return found


def _beside(number: int, one: str | Make, sounds: Sounds, folder: Path, made: Path) -> Path:
    if isinstance(one, str):
        return folder / one
    path = made / str(number)
    path.write_bytes(one(sounds))
    return path


def _cut(case: Case, source: Any, besides: list[Path], warnings: list[str]) -> list[MediaFragment]:
    who = tuple(None if name == "-" else Participant(name) for name in case.participants.split(","))
    return cut(source, who, besides=besides, content_type=case.content_type, warn=warnings.append)


def _utterances(cuts: list[MediaFragment]) -> dict[str, Spans]:
    found: dict[str, Spans] = {}
    for one in utterances_of(cuts, StreamSettings()):
        found[one.participant] = (*found.get(one.participant, ()), (one.start_ms / 1000, one.end_ms / 1000))
    return found


def _measure(cuts: list[MediaFragment], found: Found) -> None:
    demuxer = Demuxer(StreamSettings())
    first_of_slot: dict[int, int] = {}  # as pictures are sampled: five a second
    for demuxed in [*(demuxer.feed(one) for one in cuts), demuxer.finish()]:
        for block in demuxed.blocks:
            end = (block.start_sample + block.samples.size) / SAMPLES_PER_MS / 1000
            found.sound_s[block.participant] = max(found.sound_s.get(block.participant, 0.0), end)
        for picture in demuxed.pictures:
            slot = picture.time_ms // 200
            first_of_slot[slot] = min(first_of_slot.get(slot, picture.time_ms), picture.time_ms)
    found.pictures_s += [time_ms / 1000 for _, time_ms in sorted(first_of_slot.items())]


def faults(case: Case, found: Found) -> list[str]:
    """What is wrong with what was found; empty when all is right."""
    if found.error:
        if case.error is not None and re.search(case.error, found.error):
            return []
        return [f"refused: {found.error}"]
    if not case.right and case.error is not None:
        return [f"not refused, heard {_spans(found.utterances)}"]
    wrong = [] if _near(case.right, found.utterances, TOLERANCE_S) else ["other utterances"]
    if found.piped is not None and not _near(found.utterances, found.piped, PIPED_TOLERANCE_S):
        wrong.append(f"from a pipe {_spans(found.piped)}")
    if case.sound_s is not None:
        wrong += [
            f"sound of {who} ends at {end:.2f} s"
            for who, end in found.sound_s.items()
            if abs(end - case.sound_s) > TOLERANCE_S
        ]
    if case.last_picture_s is not None:
        last_s = max(found.pictures_s, default=-1.0)
        if abs(last_s - case.last_picture_s) > TOLERANCE_S:
            wrong.append(f"last picture at {last_s:.2f} s")
    wrong += [
        f"no picture at {at} s"
        for at in case.pictures_at_s
        if not any(abs(at - time_s) <= TOLERANCE_S for time_s in found.pictures_s)
    ]
    if case.warning is not None and not any(re.search(case.warning, one) for one in found.warnings):
        wrong.append(f"no warning of {case.warning!r}")
    return wrong


def _near(right: dict[str, Spans], found: dict[str, Spans], within_s: float) -> bool:
    return {who for who, spans in right.items() if spans} == set(found) and all(
        len(found[who]) == len(spans)
        and all(abs(a - b) <= within_s for one, two in zip(spans, found[who], strict=True) for a, b in zip(one, two, strict=True))
        for who, spans in right.items()
        if spans
    )  # fmt: skip


def _spans(utterances: dict[str, Spans]) -> str:
    parts = [f"{who[0]} " + " ".join(f"{a:.1f}-{b:.1f}" for a, b in spans) for who, spans in utterances.items()]
    return "; ".join(sorted(parts)) or "nothing"


def main() -> int:
    """Prints the table."""
    from tests.pipelines.media.media_variants import VARIANTS  # noqa: PLC0415 - they are made of what stands here

    parser = argparse.ArgumentParser(description="Media as it really comes: what is right, and what is found.")
    parser.add_argument("part", nargs="?", default="", help="only inputs with this in their name")
    parser.add_argument("--json", type=Path, help="write what was found to this file too")
    options = parser.parse_args()
    folder = Path(os.environ.get("UNDERTONE_DATA", "/nowhere")) / FOLDER
    if not folder.is_dir():
        Console(stderr=True).print(f"no folder {folder}; set UNDERTONE_DATA to the one that holds {FOLDER}/")
        return 2
    console, table = Console(width=120), Table("input", "sent as", "right", "found", "verdict")
    rows, count_wrong = [], 0
    for case in [*SHARED, *VARIANTS]:
        if options.part not in case.name:
            continue
        found = run(case, folder)
        wrong = faults(case, found)
        count_wrong += bool(wrong) and case.pending != BEING_BUILT
        verdict = "ok" if not wrong else case.pending if case.pending == BEING_BUILT else f"WRONG {case.pending}"
        right = _spans(case.right) if case.right else f"refused: {case.error}"
        shown = found.error or _spans(found.utterances)
        extra = [one for one in wrong if one != "other utterances" and not one.startswith("refused")]
        table.add_row(case.name, case.sent, right, "; ".join([shown[:120], *extra]), verdict)
        rows.append({"input": case.name, "sent": case.sent, "right": case.right, "error": case.error, "found": found.__dict__, "wrong": wrong, "pending": case.pending})  # fmt: skip
    console.print(table)
    console.print(f"{len(rows)} inputs, {count_wrong} wrong")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if count_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
