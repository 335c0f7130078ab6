import pytest

from pipelines.errors import SealError
from pipelines.seal import OVERHEAD_BYTES, Seal
from pipelines.types import TOPIC_MEDIA, TOPIC_SENTIMENT, CallRef

CALL = CallRef("acme", "c")
SEAL = Seal.new(CALL, TOPIC_MEDIA)


@pytest.mark.parametrize("content", [b"", b"words", bytes(1 << 20)])
def test_what_is_sealed_comes_out_as_it_was(content: bytes) -> None:
    sealed = SEAL.close(content)
    assert SEAL.open(sealed) == content
    assert len(sealed) == len(content) + OVERHEAD_BYTES
    assert not content or content not in sealed
    assert SEAL.close(content) != sealed


@pytest.mark.parametrize(
    "other",
    [
        Seal.new(CALL, TOPIC_MEDIA),
        Seal(CALL, TOPIC_SENTIMENT, SEAL.id, SEAL.key),
        Seal(CallRef("acme", "d"), TOPIC_MEDIA, SEAL.id, SEAL.key),
        Seal(CallRef("rival", "c"), TOPIC_MEDIA, SEAL.id, SEAL.key),
    ],
    ids=["key", "topic", "call", "tenant"],
)
def test_another_key_call_or_topic_opens_nothing(other: Seal) -> None:
    with pytest.raises(SealError, match="was not sealed by"):
        other.open(SEAL.close(b"words"))


def test_what_is_sealed_as_one_thing_is_not_opened_as_another() -> None:
    sealed = SEAL.close(b"sound", "agent")
    assert SEAL.open(sealed, "agent") == b"sound"
    for about in ("customer", ""):
        with pytest.raises(SealError):
            SEAL.open(sealed, about)


@pytest.mark.parametrize("cut", [0, 1, 12, 27, 28, 32])
def test_what_is_cut_or_changed_is_refused(cut: int) -> None:
    sealed = SEAL.close(b"words")
    with pytest.raises(SealError):
        SEAL.open(sealed[:cut])
    if cut < len(sealed):
        with pytest.raises(SealError):
            SEAL.open(sealed[:cut] + bytes([sealed[cut] ^ 1]) + sealed[cut + 1 :])


def test_a_seal_that_is_printed_shows_no_key() -> None:
    assert SEAL.key.hex() not in repr(SEAL)
    assert str(SEAL.key) not in repr(SEAL)
