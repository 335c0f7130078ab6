"""Whether linear 16-bit sound was read with its bytes the wrong way round, told by the sound alone."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

WINDOW_SAMPLES: Final = 160
"""20 ms at 8 kHz: the shortest fragments that come."""
ORDER: Final = 4
NOISE_MIN: Final = 0.6
SOUND_MAX: Final = 0.15
"""What linear prediction of that order leaves of a window's energy: of white noise all, of voices, music and tones less than this."""
LOUD_MIN: Final = 1 << 13
"""High bytes that are random make loud noise, whatever the sound."""
VOTES_MIN: Final = 3
"""Windows that say so, where there are as many."""

Samples = NDArray[np.int16]
Flags = NDArray[np.bool_]


def is_byte_swapped(samples: Samples) -> bool:
    """Whether (N, channels) int16 would be sound with the two bytes of every sample swapped, and is none as it stands.

    A window says so in one of three ways. Its low bytes, which are as good as random, were taken for the high ones: the reading is
    white noise while the other one can be predicted. Or it is so quiet that one byte holds it: then the other byte is its sign only.
    Or its low bytes are all zero, as of sound of 8 bits: then the reading has no sign and leaps where the sound is softest.
    Silence, noise of any kind and whatever is alike in both readings say nothing; a stream is judged fragment by fragment, so that it
    does not matter where reading began.
    """
    count = len(samples) // WINDOW_SAMPLES or 1
    length = min(WINDOW_SAMPLES, len(samples))
    if length <= 4 * ORDER:
        return False
    windows = np.ascontiguousarray(samples[: count * length].T).reshape(-1, length)
    windows = windows[(windows != windows[:, :1]).any(axis=1)]
    other = windows.byteswap()
    swapped, right = int(_says(windows, other).sum()), int(_says(other, windows).sum())
    return swapped > right and swapped >= min(VOTES_MIN, count)


def _says(read: Samples, other: Samples) -> Flags:
    """Of each window (W, N) whether `other` is sound and `read` is not."""
    small_read, small_other = _fits_a_byte(read), _fits_a_byte(other)
    left_of_read, left_of_other = _unpredicted(read), _unpredicted(other)
    quiet = small_other & ~small_read & (other.min(axis=1, initial=0) <= -2)
    quiet_as_read = small_read & ~small_other & (read.min(axis=1, initial=0) <= -2)
    noise = (
        ~quiet_as_read
        & (left_of_read > NOISE_MIN)
        & (left_of_other < SOUND_MAX)
        & (read.max(axis=1, initial=0) > LOUD_MIN)
    )
    high_is_zero = ~small_read & (read.view(np.uint16) < 256).all(axis=1)
    return np.asarray(quiet | noise | high_is_zero & (4 * left_of_other < left_of_read))


def _fits_a_byte(windows: Samples) -> Flags:
    return np.asarray((windows == windows.astype(np.int8)).all(axis=1))


def _unpredicted(windows: Samples) -> NDArray[np.float64]:
    """The part of each window's energy that linear prediction leaves (autocorrelation method), 0 to 1; (W,)."""
    centred = windows - windows.mean(axis=1, dtype=np.float64, keepdims=True)
    length = centred.shape[1]
    lags = np.stack([(centred[:, : length - lag] * centred[:, lag:]).sum(axis=1) for lag in range(ORDER + 1)], axis=1)
    lags /= lags[:, :1]
    at = np.arange(ORDER)
    matrix = lags[:, abs(at[:, None] - at)] + 1e-4 * np.eye(ORDER)
    weights = np.linalg.solve(matrix, lags[:, 1:, None])[..., 0]
    return np.asarray(1 - (weights * lags[:, 1:]).sum(axis=1))
