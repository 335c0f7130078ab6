import pytest

from pipelines.customer import hash_reference, parse_reference
from pipelines.errors import BadFragmentError


def test_the_hash_is_hmac_sha_256() -> None:
    """RFC 4231, test case 1."""
    expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert hash_reference(b"\x0b" * 20, "Hi There") == expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("4711", "4711"),
        (" 4711\n", "4711"),
        ("Zoe\u0308@example.org", "Zo\u00eb@example.org"),
        ("a b/c?d=%20#e", "a b/c?d=%20#e"),
        ("\u00e9" * 128, "\u00e9" * 128),
    ],
)
def test_a_reference_has_one_form(written: str, meant: str) -> None:
    assert parse_reference(written) == meant


def test_case_counts() -> None:
    assert parse_reference("AB") != parse_reference("ab")


@pytest.mark.parametrize(
    "bad", ["", "  ", "a\nb", "a\x00b", "a\u200bb", chr(0xD800), "a\ufffd", "a" * 257, "\u00e9" * 129, "x" * 100_000]
)
def test_what_is_none_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(BadFragmentError) as refused:
        parse_reference(bad)
    assert str(refused.value) == "header customer has to be 1 to 256 bytes of printable UTF-8"
    assert refused.value.__cause__ is None
