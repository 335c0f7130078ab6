"""Sounds without a word, made by fixed seeds: what a telephone line and the rooms at its ends give beside speech.

A recogniser that was trained on speech alone writes words for such sounds (Koenecke et al. 2024, arXiv:2402.08021); of every one
of these the right transcript is empty. Tones and cadences are those of ITU-T E.180 (dialling, ringing, busy, congestion,
special information), its Supplement 2 (what countries use), Q.23 (DTMF), T.30 (fax), V.8 and V.21 (modems).
"""

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from models.data.sound import telephone
from models.types import SAMPLE_RATE_HZ, FloatArray

Samples = NDArray[np.float64]
Make = Callable[[np.random.Generator, int], Samples]
"""From a generator of random numbers and a length N to samples (N,)."""

DTMF_HZ = ((697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0, 1633.0))
CHORDS_HZ = ((261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7))
"""C, A minor, F, G."""


def sounds() -> Iterator[tuple[str, FloatArray]]:
    """Every sound with its name: mono float32 (N,) at 16 kHz in [-1, 1], 0.1 to 29.9 s long; the same ones every time."""
    for name, (make, length_s, level_dbfs) in SOUNDS.items():
        samples = make(np.random.default_rng(crc32(name.encode())), round(length_s * SAMPLE_RATE_HZ))
        peak = float(np.abs(samples).max())
        if peak > 0:
            samples = samples * (10 ** (level_dbfs / 20) / peak)
        clear = samples.astype(np.float32)
        yield name, clear
        if name in BY_TELEPHONE:
            yield f"{name}, by telephone", telephone(clear).clip(-1, 1)


def _s(size: int) -> Samples:
    return np.arange(size) / SAMPLE_RATE_HZ


def _sine(hz: Samples | float, size: int) -> Samples:
    """A sine whose frequency may change from sample to sample."""
    return np.asarray(np.sin(2 * np.pi * np.cumsum(np.broadcast_to(hz, size)) / SAMPLE_RATE_HZ))


def _coloured(exponent: float, low_hz: float = 20.0, high_hz: float = 8_000.0) -> Make:
    """Noise between two frequencies whose power falls with frequency by the exponent: 0 white, 1 pink, 2 brown."""

    def make(rng: np.random.Generator, size: int) -> Samples:
        spectrum = np.fft.rfft(rng.standard_normal(size))
        hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
        spectrum *= np.maximum(hz, 20.0) ** (-exponent / 2) * ((hz >= low_hz) & (hz <= high_hz))
        return np.asarray(np.fft.irfft(spectrum, size))

    return make


def _tones(*hz: float, cadence: Sequence[float] = ()) -> Make:
    """Sines at once, in turn on and off for so many seconds each; without a cadence always on."""

    def make(_: np.random.Generator, size: int) -> Samples:
        tone = np.asarray(np.sum([_sine(one, size) for one in hz], axis=0))
        return tone if not cadence else tone * _gate(cadence, size)

    return make


def _gate(cadence: Sequence[float], size: int) -> Samples:
    """1 where a cadence of seconds on, off, on … is on, else 0."""
    edges = np.cumsum(cadence)
    return np.asarray(np.searchsorted(edges, _s(size) % edges[-1], side="right") % 2 == 0, dtype=np.float64)


def _sequence(*steps: tuple[Sequence[float], float]) -> Make:
    """Chords of sines one after the other, each (frequencies, seconds), from the start again when they are over."""

    def make(_: np.random.Generator, size: int) -> Samples:
        parts = [np.sum([_sine(hz, round(s * SAMPLE_RATE_HZ)) for hz in [*one, 0.0]], axis=0) for one, s in steps]
        return np.asarray(np.resize(np.concatenate(parts), size))

    return make


def _dialled(digits: str, on_s: float, off_s: float) -> Make:
    keys = [("123A456B789C*0#D".index(digit)) for digit in digits]
    pairs = [(DTMF_HZ[0][key // 4], DTMF_HZ[1][key % 4]) for key in keys]
    return _sequence(*(step for pair in pairs for step in ((pair, on_s), ((), off_s))))


def _pulses(per_s: float, decay_s: float, body: Make, jitter: float = 1.0) -> Make:
    """Short sounds of the body that decay by 60 dB; as random as the jitter says (1: at any time, 0: like a clock)."""

    def make(rng: np.random.Generator, size: int) -> Samples:
        count = max(1, round(per_s * size / SAMPLE_RATE_HZ))
        starts = (np.arange(count) + jitter * rng.uniform(-1, 1, count) + 0.25) * size / count
        length = max(2, round(decay_s * SAMPLE_RATE_HZ))
        mixed = np.zeros(size + length)
        for start in starts.clip(0, size - 1).astype(int):
            shape = 10 ** (-3 * np.arange(length) / length) * rng.uniform(0.4, 1)
            mixed[start : start + length] += shape * body(rng, length)
        return mixed[:size]

    return make


def _swelling(body: Make, per_s: float, depth: float = 1.0, steady: float = 0.0) -> Make:
    """The body, louder and softer so many times a second: regularly (steady 1) or by a random walk (0)."""

    def make(rng: np.random.Generator, size: int) -> Samples:
        knots = rng.uniform(0, 1, int(size / SAMPLE_RATE_HZ * per_s * 2) + 3)
        walk = np.interp(np.arange(size) * per_s * 2 / SAMPLE_RATE_HZ, np.arange(len(knots)), knots)
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * per_s * _s(size))
        return body(rng, size) * (1 - depth + depth * (steady * wave + (1 - steady) * walk))

    return make


def _babble(rng: np.random.Generator, size: int) -> Samples:
    """A crowd without words: ten sources of noise in bands of speech, each swelling four times a second like syllables."""
    bands = [(low, low * rng.uniform(1.3, 2.0)) for low in rng.uniform(200, 2_500, 10)]
    return np.asarray(np.sum([_swelling(_coloured(1, *band), 4)(rng, size) for band in bands], axis=0))


def _hum(mains_hz: float) -> Make:
    def make(_: np.random.Generator, size: int) -> Samples:
        return np.asarray(np.sum([_sine(mains_hz * odd, size) / odd for odd in (1, 2, 3, 5, 7, 9)], axis=0))

    return make


def _clipped(body: Make, gain: float) -> Make:
    """The body, amplified over full scale and cut there."""
    return lambda rng, size: np.clip(body(rng, size) * gain, -1, 1)


def _mixed(*bodies: Make) -> Make:
    return lambda rng, size: np.asarray(np.sum([body(rng, size) for body in bodies], axis=0))


def _frequency_keyed(low_hz: float, high_hz: float, baud: float) -> Make:
    """Random bits as two frequencies (V.21, Bell 103)."""

    def make(rng: np.random.Generator, size: int) -> Samples:
        bits = rng.integers(0, 2, int(size * baud / SAMPLE_RATE_HZ) + 1)
        return _sine(np.where(bits[(_s(size) * baud).astype(int)], low_hz, high_hz), size)

    return make


def _answer_tone(_: np.random.Generator, size: int) -> Samples:
    """V.8's ANSam: 2100 Hz, its amplitude modulated at 15 Hz, its phase turned round every 450 ms."""
    at = _s(size)
    return np.asarray(
        _sine(2_100, size) * (1 + 0.2 * np.sin(30 * np.pi * at)) * (1 - 2 * ((at / 0.45).astype(int) % 2))
    )


def _music(beat_s: float, harmonics: int, decay_s: float, *, melody: bool = False) -> Make:
    """Chords on hold, struck once a bar of four beats, each note of so many harmonics; or a melody of their notes."""

    def make(rng: np.random.Generator, size: int) -> Samples:
        step, mixed = round(beat_s * SAMPLE_RATE_HZ), np.zeros(size)
        for beat, start in enumerate(range(0, size, step)):
            chord = CHORDS_HZ[beat // 4 % len(CHORDS_HZ)]
            notes = (2 * rng.choice(chord),) if melody else chord if beat % 4 == 0 else ()
            length = min(size - start, step * (1 if melody else 4))
            for hz in notes:
                for harmonic in range(1, harmonics + 1):
                    fall = np.exp(-_s(length) * harmonic**0.5 / decay_s)
                    mixed[start : start + length] += fall * _sine(hz * harmonic, length) / harmonic
        return mixed

    return make


def _sweep(low_hz: float, high_hz: float, per_s: float) -> Make:
    """A tone that rises and falls, as sirens and birds do."""
    return lambda _, size: _sine(low_hz + (high_hz - low_hz) * (0.5 - 0.5 * np.cos(2 * np.pi * per_s * _s(size))), size)


def _square(hz: float) -> Make:
    return lambda _, size: np.sign(_sine(hz, size) + 1e-9)


WHITE, PINK, BROWN = _coloured(0), _coloured(1), _coloured(2)
THUMP, TICK = _tones(60, 95), _coloured(0, 2_000)
DRUMS = _mixed(_pulses(2, 0.25, THUMP, 0), _pulses(4, 0.06, TICK, 0))

SOUNDS: dict[str, tuple[Make, float, float]] = {
    "digital silence": (lambda _, size: np.zeros(size), 5, 0),
    "digital silence, 0.1 s": (lambda _, size: np.zeros(size), 0.1, 0),
    "digital silence, 29.9 s": (lambda _, size: np.zeros(size), 29.9, 0),
    "constant offset": (lambda _, size: np.ones(size), 3, -20),
    "least bit noise": (WHITE, 4, -90),
    "white noise, soft": (WHITE, 6, -60),
    "white noise": (WHITE, 4, -30),
    "white noise, full scale": (WHITE, 2, 0),
    "white noise, 0.1 s": (WHITE, 0.1, -20),
    "white noise, 29.9 s": (WHITE, 29.9, -25),
    "pink noise, soft": (PINK, 5, -50),
    "pink noise": (PINK, 3, -20),
    "pink noise, 15 s": (PINK, 15, -12),
    "brown noise": (BROWN, 4, -15),
    "brown noise, full scale": (BROWN, 10, 0),
    "comfort noise": (_coloured(0.5, 100, 3_400), 8, -55),
    "noise with lost packets": (lambda rng, size: PINK(rng, size) * _gate((0.16, 0.04), size), 5, -20),
    "hum, 50 Hz": (_hum(50), 5, -20),
    "hum, 60 Hz, loud": (_hum(60), 2.5, -3),
    "radio interference, 217 Hz": (lambda _, size: _gate((1 / 1733, 7 / 1733), size) - 0.125, 4, -15),
    "dialling tone, America": (_tones(350, 440), 4, -15),
    "dialling tone, Europe": (_tones(425), 3, -15),
    "dialling tone, Britain": (_tones(350, 450), 12, -15),
    "ringing tone, America": (_tones(440, 480, cadence=(2, 4)), 14, -15),
    "ringing tone, Germany": (_tones(425, cadence=(1, 4)), 6, -15),
    "ringing tone, Britain": (_tones(400, 450, cadence=(0.4, 0.2, 0.4, 2)), 9, -15),
    "busy tone, America": (_tones(480, 620, cadence=(0.5, 0.5)), 5, -15),
    "busy tone, Europe": (_tones(425, cadence=(0.48, 0.48)), 7, -15),
    "congestion tone, America": (_tones(480, 620, cadence=(0.25, 0.25)), 4, -15),
    "congestion tone, Europe": (_tones(425, cadence=(0.24, 0.24)), 3, -15),
    "call waiting tone": (_tones(440, cadence=(0.3, 9.7)), 1.5, -15),
    "off hook tone": (_tones(1_400, 2_060, 2_450, 2_600, cadence=(0.1, 0.1)), 4, -6),
    "special information tone": (_sequence(((950,), 0.33), ((1_400,), 0.33), ((1_800,), 0.33), ((), 1.0)), 4, -15),
    "recording tone": (_tones(1_400, cadence=(0.4, 14.6)), 20, -20),
    "hold tone": (_tones(440, cadence=(0.2, 0.1, 0.2, 3.5)), 12, -18),
    "beep": (_tones(1_000, cadence=(0.3, 9)), 1, -10),
    "beep, 0.1 s": (_tones(1_000), 0.1, -6),
    "beeps": (_tones(800, cadence=(0.15, 0.35)), 6, -10),
    "one note, 29.9 s": (_tones(1_000), 29.9, -12),
    "dialled digits": (_dialled("18005550199", 0.07, 0.07), 1.54, -10),
    "dialled digits, slow": (_dialled("4711*0815#", 0.25, 0.3), 5.5, -12),
    "dialled digit, held": (_dialled("5", 2.0, 0.2), 2.2, -10),
    "fax calling tone": (_tones(1_100, cadence=(0.5, 3)), 7.5, -12),
    "fax answer tone": (_tones(2_100), 3, -12),
    "modem answer tone": (_answer_tone, 4, -12),
    "modem, V.21": (_frequency_keyed(980, 1_180, 300), 5, -12),
    "modem, V.21 answering": (_frequency_keyed(1_650, 1_850, 300), 3, -12),
    "modem, scrambled carrier": (_coloured(0, 600, 3_000), 5, -12),
    "clicks": (_pulses(2, 0.002, TICK), 5, -3),
    "line crackle": (_pulses(60, 0.004, WHITE), 6, -10),
    "line crackle over noise": (_mixed(_pulses(20, 0.003, WHITE), lambda rng, n: 0.05 * PINK(rng, n)), 4, -10),
    "clipping square": (_clipped(_square(220), 4), 2, 0),
    "clipping hum": (_clipped(_hum(50), 20), 4, 0),
    "clipping noise": (_clipped(PINK, 1e3), 3, 0),
    "music, piano chords": (_music(0.5, 6, 0.8), 12, -10),
    "music, soft chords": (_music(0.8, 2, 2.0), 20, -20),
    "music, organ": (_music(0.6, 8, 20.0), 8, -10),
    "music, melody": (_music(0.3, 4, 0.3, melody=True), 9, -10),
    "music, fast melody": (_music(0.15, 2, 0.2, melody=True), 5, -10),
    "music, melody over chords": (_mixed(_music(0.4, 4, 0.4, melody=True), _music(0.4, 5, 1)), 29.9, -8),
    "music, drums": (DRUMS, 8, -6),
    "music, band": (_mixed(DRUMS, _music(0.5, 5, 0.6), _music(0.25, 3, 0.3, melody=True)), 15, -6),
    "breathing": (_swelling(_coloured(0.5, 300, 5_000), 0.4, steady=1), 8, -30),
    "heavy breathing": (_swelling(_coloured(1, 200, 6_000), 0.9, steady=1), 5, -15),
    "sniff": (_swelling(_coloured(0, 1_000, 7_000), 2, steady=1), 0.5, -15),
    "wind": (_swelling(_coloured(1.5, 20, 1_500), 0.5), 12, -10),
    "wind on the microphone": (_clipped(_swelling(_coloured(2.5, 20, 400), 2), 30), 5, -1),
    "keyboard": (_pulses(6, 0.03, _coloured(0, 1_500, 7_000)), 7, -15),
    "mouse": (_pulses(1, 0.01, TICK), 3, -20),
    "crowd": (_babble, 8, -15),
    "crowd, soft": (_babble, 20, -40),
    "crowd, 1 s": (_babble, 1, -15),
    "footsteps": (_pulses(1.8, 0.15, _coloured(1.5, 20, 800), 0.1), 6, -12),
    "door": (_pulses(0.5, 0.5, _coloured(1.5, 20, 1_200), 0.1), 2, -3),
    "knocking": (_pulses(3, 0.08, _coloured(1, 100, 1_500), 0.05), 2, -8),
    "paper": (_swelling(_coloured(0, 1_500), 9), 3, -20),
    "cough": (_pulses(2, 0.3, _coloured(1, 300, 4_000), 0.2), 1.2, -8),
    "rain": (_mixed(_pulses(200, 0.005, WHITE), lambda rng, n: 0.02 * WHITE(rng, n)), 10, -20),
    "car": (_mixed(_coloured(2, 20, 500), _coloured(1, 20, 2_000)), 10, -12),
    "engine": (_swelling(_hum(83), 14, 0.6, 0.8), 6, -12),
    "vacuum cleaner": (_mixed(_coloured(0.5, 200), lambda rng, n: 2e-1 * _hum(300)(rng, n)), 6, -10),
    "siren": (_sweep(600, 1_300, 0.25), 8, -10),
    "birds": (_pulses(3, 0.12, _sweep(3_000, 5_500, 9)), 6, -15),
    "feedback": (_sweep(2_800, 2_900, 0.1), 3, -3),
}  # fmt: skip
"""By name: how it is made, its length in s (at most 29.9), and its peak in dB of full scale."""

BY_TELEPHONE = frozenset(
    {"white noise", "pink noise", "music, piano chords", "music, melody over chords", "music, band", "crowd"}
    | {"breathing", "wind", "keyboard", "siren", "dialled digits", "beep", "hum, 50 Hz", "cough"}
)
"""Also heard at 8 kHz through G.711."""
