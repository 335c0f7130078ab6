"""The receipt of a deletion: what went, and a digest of what it says."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Self

from pydantic import AwareDatetime, BaseModel


class ForgottenCall(BaseModel):
    """A call that went, or would go, and how many utterances were stored of it, those of replays and shadows included."""

    call_id: str
    utterances: int


class Receipt(BaseModel):
    """What of a customer, or of one call, was forgotten, or would be (`dry_run`); it says nothing of who that is.

    `remaining` calls are left: with a dry run because only the first are listed, else because one request forgets only so many:
    send it again. `digest` is the SHA-256 of the other fields as JSON, keys sorted, without spaces.
    """

    tenant: str
    at: AwareDatetime
    dry_run: bool
    calls: list[ForgottenCall]
    utterances: int
    remaining: int
    digest: str

    @classmethod
    def of(cls, tenant: str, calls: list[ForgottenCall], remaining: int = 0, *, dry_run: bool) -> Self:
        """A receipt of now."""
        receipt = cls(
            tenant=tenant,
            at=datetime.now(UTC),
            dry_run=dry_run,
            calls=calls,
            utterances=sum(call.utterances for call in calls),
            remaining=remaining,
            digest="",
        )
        return receipt.model_copy(update={"digest": receipt.expected_digest()})

    def expected_digest(self) -> str:
        """The digest of what it says."""
        fields = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
