"""Every error the stream can name. Each is also the built-in error it is a kind of, so callers may catch either."""

from functools import partial
from typing import Any, Literal

StoreTrouble = Literal["away", "out_of_memory", "read_only", "refused"]


class UndertoneError(Exception):
    """Base of all of them; `reason` is the stable word for counters, dead letters and problem details."""

    reason = "error"


class BadFragmentError(UndertoneError, ValueError):
    """A record that breaks the contract of docs/architecture.md#a-fragment; it is dead-lettered and its call goes on."""

    def __init__(self, reason: str, detail: str, *, header: str | None = None) -> None:
        """`reason` is one of the words in `DEAD_LETTER_REASONS`; `detail` says what to change.

        `header` names the header that is wrong, if one is; the message then starts with it. `message_for` gives the
        message for a value that came under another name: a field of a form, an option of the command line.
        """
        super().__init__(detail if header is None else f"header {header} {detail}")
        self.reason, self.detail, self.header = reason, detail, header

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it can come out of another process."""
        return partial(type(self), header=self.header), (self.reason, self.detail)

    def message_for(self, name: str) -> str:
        """What to mend, of a value that came under `name` instead of in a header."""
        return f"{name} {self.detail}"


class MediaError(UndertoneError, ValueError):
    """Media that FFmpeg cannot open, or that passes a limit of the settings."""

    reason = "undecodable"


class ParticipantsError(MediaError):
    """Media that is well, and whose channels or tracks are not what the participants say."""


class MediaTooLongError(MediaError):
    """There is more media than may be analysed at once."""

    reason = "too_long"


class BusyError(UndertoneError, RuntimeError):
    """As much goes on at once as there is room for; the same may be tried again."""

    reason = "busy"


class NoFaceError(UndertoneError, LookupError):
    """No face in any sampled picture of an utterance."""

    reason: Literal["no_face"] = "no_face"


class UnusableInputError(UndertoneError, ValueError):
    """Sound or words that no encoder can judge: silence, a fraction of a second, NaN."""

    reason: Literal["unusable"] = "unusable"


class RedactionError(UnusableInputError):
    """Words in which what must not be kept could not be looked for: they are not used. Its message holds none of them."""


class EncoderUnavailableError(UndertoneError, ConnectionError):
    """A transcriber, encoder or fusion does not answer; only its modality is missing from the result."""

    reason: Literal["encoder_unavailable"] = "encoder_unavailable"


class SourceUnavailableError(UndertoneError, ConnectionError):
    """The log of fragments does not answer; the worker waits `retry_after_s` and goes on."""

    reason = "source_unavailable"

    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        """`retry_after_s` is the pause before the next try, in seconds."""
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class StoreUnavailableError(UndertoneError, ConnectionError):
    """Redis does not answer or refuses to write; nothing is lost, the worker tries again."""

    reason = "store_unavailable"

    def __init__(self, detail: str, cause: StoreTrouble = "away") -> None:
        """`cause` tells an absent server from one that refuses to write."""
        super().__init__(detail)
        self.cause = cause


class FencedError(UndertoneError, RuntimeError):
    """The checkpoint is not where the writer expected it: another worker owns the stream now. Drop its state."""

    reason = "fenced"


class CallDeletedError(UndertoneError, LookupError):
    """The call was deleted; nothing of it is stored any more, and its fragments are skipped."""

    reason = "call_deleted"


class SealError(UndertoneError, ValueError):
    """What the log holds of a call cannot be opened: its seal is another, or has gone."""

    reason = "sealed"


class TokenFileError(UndertoneError, RuntimeError):
    """The file of access tokens cannot be read or written; no token is taken meanwhile."""

    reason = "tokens_unavailable"


class IdentityProviderError(UndertoneError, ConnectionError):
    """The identity provider's keys cannot be had; its tokens are not taken meanwhile."""

    reason = "identity_provider_unavailable"


class PoliciesUnknownError(UndertoneError, LookupError):
    """A replay or a shadow does not know what the tenants allow."""

    reason = "policies_unknown"


class CorruptResultError(UndertoneError, ValueError):
    """A stored result cannot be parsed; delete the call or send it again."""

    reason = "corrupt_result"


class BadCursorError(UndertoneError, ValueError):
    """A page was asked for with a cursor that no listing returned."""

    reason = "bad_cursor"


class TopicMissingError(UndertoneError, LookupError):
    """A topic does not exist and may not be created; the message carries the command that creates it."""

    reason = "topic_missing"


DEAD_LETTER_REASONS = (
    "unknown_version",
    "missing_header",
    "bad_header",
    "bad_call_id",
    "sealed",
    "oversize",
    "undecodable",
    "wrong_partition",
    "crashed",
    "killed",
)
"""Why a record is dead-lettered. `sealed`: the store has not the key to it; `crashed` is an error of Undertone's own code, whose traceback is in its log; `killed` is a
record whose media ended the process that decoded it, repeatedly."""
