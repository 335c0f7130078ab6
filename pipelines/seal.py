"""Sealing what a topic of the log holds of a call, so that it can be forgotten there: a log deletes no single record.

What is sealed with a key that only the store holds is gone once the key is (crypto-shredding; NIST SP 800-88r1, 2.6). The
cipher is AES-256-GCM (NIST SP 800-38D): a nonce of 96 random bits, the ciphertext, a tag of 128 bits.
"""

import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipelines.errors import SealError
from pipelines.types import CallRef

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""How much longer sealed bytes are."""
HEADER = "seal"
"""The header of a sealed record: the id of its seal."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The key with which one topic's records of one call are sealed, and its id, which says nothing of the key."""

    call: CallRef
    topic: str
    id: str
    key: bytes = field(repr=False)

    @classmethod
    def new(cls, call: CallRef, topic: str) -> "Seal":
        """One that nobody else has."""
        return cls(call, topic, secrets.token_hex(8), secrets.token_bytes(KEY_BYTES))

    def close(self, content: bytes, about: str = "") -> bytes:
        """`content`, which only this seal opens, told the same `about` it; again, it is other bytes."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, content, self._place(about))

    def open(self, sealed: bytes, about: str = "") -> bytes:
        """What was sealed.

        Raises:
            SealError: it was not sealed by this seal, or of something else, or is not whole.
        """
        try:
            return AESGCM(self.key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._place(about))
        except (InvalidTag, ValueError):
            raise SealError(f"what the log holds of {self.call} was not sealed by {self.id}, or was changed") from None

    def _place(self, about: str) -> bytes:
        """What a record must be, to be opened: none can be passed off as another call's, in another topic, or as something else."""
        return f"{self.topic}/{self.call.tenant}/{self.call.call_id}/{about}".encode()
