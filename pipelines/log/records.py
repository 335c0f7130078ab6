"""Parses a record into a `MediaFragment`, or refuses it with a reason, and writes one (docs/architecture.md#a-fragment)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from zlib import crc32

from pipelines.consent import format_consent, granted, parse_consent
from pipelines.customer import HASH_HEADER, HASH_PATTERN, REFERENCE_HEADER, parse_reference
from pipelines.errors import BadFragmentError
from pipelines.seal import HEADER as SEAL
from pipelines.seal import OVERHEAD_BYTES, Seal
from pipelines.settings import MediaLimits
from pipelines.types import (
    CALL_ID_PATTERN,
    LEFT_OUT,
    NAME_PATTERN,
    START_MAX_MS,
    CallRef,
    Channels,
    Consent,
    Headers,
    MediaFragment,
    Participant,
    Record,
    format_participants,
)

VERSION = "1"
SEQ_MAX = 2**31 - 1
RECORDED = "recorded"
"""The header that says that nobody waits for what comes of a fragment."""
HEADERS_MAX = 64
HEADER_MAX_BYTES = 4096

_PARTICIPANTS = frozenset(participant.value for participant in Participant)
_CALL_ID = re.compile(CALL_ID_PATTERN)
_NAME = re.compile(NAME_PATTERN)
_CUSTOMER_HASH = re.compile(HASH_PATTERN)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,12}")
_CONTENT_TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]+(?:\s*;\s*[A-Za-z0-9-]+=[A-Za-z0-9._+-]+)*")
_PARAMETER = re.compile(r";\s*(rate|channels)=([^;\s]+)")


def parse_record(record: Record, limits: MediaLimits) -> MediaFragment:
    """The fragment that `record` holds.

    Raises:
        BadFragmentError: the record breaks the contract; `reason` is one of `errors.DEAD_LETTER_REASONS` and the
            message says what the sender has to change.
    """
    call_id = _call_id(record.key)
    allowed_bytes = limits.fragment_max_bytes + OVERHEAD_BYTES * any(name == SEAL for name, _ in record.headers)
    if len(record.value) > allowed_bytes:
        raise BadFragmentError(
            "oversize",
            f"the value has {len(record.value)} bytes, allowed are {allowed_bytes}: send shorter fragments",
        )
    headers = _headers(record.headers)
    version = _required(headers, "v")
    if version != VERSION:
        raise BadFragmentError("unknown_version", f"is {version[:20]!r}, understood is {VERSION!r}", header="v")
    final = _one_of(headers, "final", {"0": False, "1": True}, default=False)
    withheld = _one_of(headers, "withheld", {"0": False, "1": True}, default=False)
    recorded = _one_of(headers, RECORDED, {"0": False, "1": True}, default=False)
    if not record.value and not final and not withheld:
        raise BadFragmentError("undecodable", "the value is empty, which only a fragment with final=1 may be")
    return MediaFragment(
        call_id=call_id,
        tenant=_name(headers, "tenant", "default"),
        stream=_name(headers, "stream", "main"),
        seq=_whole_number(headers, "seq", SEQ_MAX),
        start_ms=_whole_number(headers, "start-ms", START_MAX_MS),
        content_type=_content_type(headers, limits),
        participants=parse_participants(_required(headers, "participants"), limits.channels_max),
        consent=parse_consent(headers["consent"]) if "consent" in headers else None,
        final=final,
        media=b"" if withheld else record.value,
        at=record.at,
        seal=_name(headers, SEAL, "") if SEAL in headers else None,
        withheld=withheld,
        customer=_customer(headers),
        recorded=recorded,
    )


def fragment_headers(fragment: MediaFragment) -> Headers:
    """The headers from which `parse_record` makes the same fragment again."""
    headers = {
        "v": VERSION,
        "tenant": fragment.tenant,
        "stream": fragment.stream,
        "seq": str(fragment.seq),
        "start-ms": str(fragment.start_ms),
        "content-type": fragment.content_type,
        "participants": format_participants(fragment.participants),
    }
    if fragment.consent is not None:
        headers["consent"] = format_consent(fragment.consent)
    for name, said in (("final", fragment.final), ("withheld", fragment.withheld), (RECORDED, fragment.recorded)):
        if said:
            headers[name] = "1"
    if fragment.seal is not None:
        headers[SEAL] = fragment.seal
    if fragment.customer is not None:
        headers[HASH_HEADER] = fragment.customer
    return tuple((name, value.encode()) for name, value in headers.items())


def seal_fragment(fragment: MediaFragment, seal: Seal, policy: Consent) -> MediaFragment:
    """The fragment as it goes into the log: its media sealed, or left out where its tenant's `policy` lets nothing of it be analysed."""
    if fragment.seal is not None or not fragment.media:
        return fragment
    allowed = granted(fragment.consent, policy)
    if not any(allowed.get(who) for who in fragment.heard):
        return replace(fragment, media=b"", withheld=True)
    return replace(fragment, media=seal.close(fragment.media, _sealed_with(fragment)), seal=seal.id)


def open_fragment(fragment: MediaFragment, seal: Seal) -> MediaFragment:
    """The fragment with media that can be read.

    Raises:
        SealError: it was not sealed by `seal`, or with other participants, consent, time or kind of media.
    """
    return replace(fragment, media=seal.open(fragment.media, _sealed_with(fragment)), seal=None)


def _sealed_with(fragment: MediaFragment) -> str:
    """What is said of the media that nobody without the key may change; a redriven fragment gets another stream and `seq`."""
    consent = "" if fragment.consent is None else f"={format_consent(fragment.consent)}"
    return f"{format_participants(fragment.participants)}/{consent}/{fragment.start_ms}/{fragment.content_type}"


def call_of(record: Record) -> CallRef | None:
    """Whose record it is, also where it breaks the contract in another way; None where it does not say."""
    key = (record.key or b"")[:129].decode("ascii", errors="replace")
    tenants = [value.decode(errors="replace") for name, value in record.headers if name == "tenant"] or ["default"]
    if not _CALL_ID.fullmatch(key) or len(tenants) > 1 or not _NAME.fullmatch(tenants[0]):
        return None
    return CallRef(tenants[0], key)


def concerns(record: Record, tenant: str | None, call_id: str | None) -> bool:
    """Whether a record is of this tenant and of a call with this id; None is any. One that does not say whose it is, is nobody's."""
    if call_id is not None and record.key != call_id.encode():
        return False
    if tenant is None:
        return True
    whose = call_of(record)
    return whose is not None and whose.tenant == tenant


def in_share(key: bytes | None, share: float) -> bool:
    """Whether the call of this key is among the given share of calls; always the same ones."""
    return crc32(key or b"") < share * 2**32


def parse_participants(text: str, channels_max: int = 64) -> Channels:
    """`agent,customer` as participants, one a channel or sound track in order; `-` leaves one out.

    Raises:
        BadFragmentError: an unknown or repeated participant, nobody at all, or more than `channels_max`.
    """
    names = [name.strip() for name in text.split(",")]
    named = [name for name in names if name != LEFT_OUT]
    if not named or not _PARTICIPANTS.issuperset(named) or len(set(named)) != len(named) or len(names) > channels_max:
        raise BadFragmentError(
            "bad_header",
            f"is {text[:80]!r}: name each of {', '.join(Participant)} at most once; {LEFT_OUT} leaves a channel out",
            header="participants",
        )
    return tuple(None if name == LEFT_OUT else Participant(name) for name in names)


def _call_id(key: bytes | None) -> str:
    text = (key or b"")[:129].decode("ascii", errors="replace")
    if key is None or not _CALL_ID.fullmatch(text):
        raise BadFragmentError(
            "bad_call_id",
            f"the key {text!r} is no call id: use 1 to 128 characters of A-Z a-z 0-9 . _ : -, not . or ..",
        )
    return text


def _headers(raw: Headers) -> dict[str, str]:
    if len(raw) > HEADERS_MAX:
        raise BadFragmentError("bad_header", f"{len(raw)} headers, allowed are {HEADERS_MAX}")
    headers: dict[str, str] = {}
    for name, value in raw:
        if name in headers:
            raise BadFragmentError("bad_header", f"header {name[:40]!r} stands there twice")
        if len(value) > HEADER_MAX_BYTES:
            raise BadFragmentError("bad_header", f"header {name[:40]!r} has more than {HEADER_MAX_BYTES} bytes")
        try:
            headers[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadFragmentError("bad_header", f"header {name[:40]!r} is not UTF-8") from None
    return headers


def _required(headers: Mapping[str, str], name: str) -> str:
    if name not in headers:
        raise BadFragmentError("missing_header", "is missing: every fragment needs it", header=name)
    return headers[name]


def _name(headers: Mapping[str, str], name: str, default: str) -> str:
    value = headers.get(name, default)
    if not _NAME.fullmatch(value):
        raise BadFragmentError(
            "bad_header", f"is {value[:80]!r}: use 1 to 64 characters of A-Z a-z 0-9 . _ -, not . or ..", header=name
        )
    return value


def _whole_number(headers: Mapping[str, str], name: str, largest: int) -> int:
    value = _required(headers, name)
    if not _WHOLE_NUMBER.fullmatch(value) or int(value) > largest:
        raise BadFragmentError("bad_header", f"is {value[:20]!r}: give a whole number from 0 to {largest}", header=name)
    return int(value)


def _customer(headers: Mapping[str, str]) -> str | None:
    """The keyed hash of the customer; a reference itself is only checked: a worker puts its hash in its place before."""
    if REFERENCE_HEADER in headers:
        parse_reference(headers[REFERENCE_HEADER])
        if HASH_HEADER in headers:
            raise BadFragmentError(
                "bad_header", f"stands beside {REFERENCE_HEADER}: write that alone", header=HASH_HEADER
            )
    value = headers.get(HASH_HEADER)
    if value is not None and not _CUSTOMER_HASH.fullmatch(value):
        raise BadFragmentError(
            "bad_header",
            f"is no hash of this system's: write the reference itself as {REFERENCE_HEADER}",
            header=HASH_HEADER,
        )
    return value


def _one_of(headers: Mapping[str, str], name: str, meaning: Mapping[str, bool], *, default: bool) -> bool:
    if name not in headers:
        return default
    if headers[name] not in meaning:
        raise BadFragmentError("bad_header", f"is {headers[name][:20]!r}: give {' or '.join(meaning)}", header=name)
    return meaning[headers[name]]


def _content_type(headers: Mapping[str, str], limits: MediaLimits) -> str:
    value = _required(headers, "content-type")
    if len(value) > 255 or not _CONTENT_TYPE.fullmatch(value):
        raise BadFragmentError(
            "bad_header", f"is {value[:80]!r}: write audio/L16;rate=8000;channels=2", header="content-type"
        )
    largest = {"rate": limits.sample_rate_max_hz, "channels": limits.channels_max}
    for name, number in _PARAMETER.findall(value):
        if not _WHOLE_NUMBER.fullmatch(number) or not 1 <= int(number) <= largest[name]:
            raise BadFragmentError(
                "bad_header", f"content-type says {name}={number[:20]}: give a whole number from 1 to {largest[name]}"
            )
    return value
