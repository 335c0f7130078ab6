"""A customer's reference, by which all of their calls are forgotten, and the keyed hash that is kept in its place."""

import hashlib
import hmac
import unicodedata

from pipelines.errors import BadFragmentError

REFERENCE_HEADER, HASH_HEADER = "customer", "customer-hash"
"""Of a record: the reference itself, which only foreign producers write, and its hash, which everything of Undertone's writes."""
REFERENCE_MAX_BYTES = 256
HASH_PATTERN = r"^[0-9a-f]{64}$"
KEY_BYTES = 32


def parse_reference(text: str) -> str:
    """The reference in the one form that is hashed: Unicode NFC, without spaces around it; case counts.

    Account numbers may differ by case alone, and no rule of letters holds for all of them: whoever takes e-mail addresses writes them
    in one case.

    Raises:
        BadFragmentError: it is empty, too long or not printable. The message does not repeat it.
    """
    found = unicodedata.normalize("NFC", text.strip())
    # A replacement character is what a decoder made of bytes that are no text.
    is_text = found and found.isprintable() and "\ufffd" not in found
    if not is_text or len(found.encode()) > REFERENCE_MAX_BYTES:
        raise BadFragmentError(
            "bad_header", f"has to be 1 to {REFERENCE_MAX_BYTES} bytes of printable UTF-8", header=REFERENCE_HEADER
        )
    return found


def hash_reference(key: bytes, reference: str) -> str:
    """HMAC-SHA-256 (RFC 2104) of a parsed reference, in hexadecimal.

    References are short and can be guessed: without a key, whoever reads the log would try all account numbers.
    """
    return hmac.new(key, reference.encode(), hashlib.sha256).hexdigest()
