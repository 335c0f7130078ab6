"""The file of access tokens: a JSON object a line, with a hash where the token would stand.

A token is `ut_ID_SECRET`. SECRET has 256 random bits, so that one round of SHA-256 hides it (NIST SP 800-63B, 5.1.2.2): what
needs a slow hash is a password that somebody made up. ID says which line to compare it with.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import TokenFileError
from pipelines.settings import Settings, is_loopback
from pipelines.types import NAME_PATTERN

Scope = Literal["read", "send", "analyze", "delete", "operate"]
"""What a caller may do: read calls, their results and events; send media into the log; have something judged without
storing it; delete calls; read the metrics, and the trail of accesses."""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
ANY_TENANT = "*"
FILE_MAX_BYTES = 1 << 20
_PREFIX = "ut"
_ID_BYTES, _SECRET_BYTES = 6, 32
_TOKEN_MAX_CHARS = 128
_NOBODY = hashlib.sha256(b"").hexdigest()


class Grant(BaseModel):
    """What a token allows: a line of the file.

    Attributes:
        id: Names it in listings and logs; no secret.
        sha256: Of the token's secret part, in hexadecimal.
        tenant: Whose calls, or `*` for those of any tenant that a request names.
        scopes: What may be done with them.
        created_at: When.
        expires_at: When it stops to be taken; None: never.
        note: What its maker wants to remember.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, Field(pattern=rf"^(\*|{NAME_PATTERN.strip('^$')})$")] = "default"
    scopes: frozenset[Scope]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    note: Annotated[str, Field(max_length=200)] = ""

    def expired(self, now: datetime) -> bool:
        """Whether it is taken no more at `now`."""
        return self.expires_at is not None and now >= self.expires_at


def new_token(
    tenant: str, scopes: frozenset[Scope], expires_at: datetime | None = None, note: str = ""
) -> tuple[str, Grant]:
    """A fresh token and what the file keeps of it. The token itself is kept nowhere."""
    token_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    grant = Grant(
        id=token_id,
        sha256=_digest(secret),
        tenant=tenant,
        scopes=scopes,
        created_at=datetime.now(UTC),
        expires_at=expires_at,
        note=note,
    )
    return f"{_PREFIX}_{token_id}_{secret}", grant


class TokenFile:
    """The grants in a file, read again when it changes: a Secret of Kubernetes is replaced under a running service."""

    def __init__(self, path: Path) -> None:
        """It need not be there yet."""
        self.path = path
        self._state: tuple[int, int, int] | None = None
        self._grants: Mapping[str, Grant] = {}

    def find(self, token: str, now: datetime) -> Grant | None:
        """What `token` allows at `now`; None for one that is unknown or expired. As slow for one as for the other.

        Raises:
            TokenFileError: the file is not there or cannot be read.
        """
        kind, _, rest = token[:_TOKEN_MAX_CHARS].partition("_")
        token_id, _, secret = rest.partition("_")
        grant = self.grants().get(token_id)
        same = hmac.compare_digest(_digest(secret), _NOBODY if grant is None else grant.sha256)
        return grant if grant is not None and same and kind == _PREFIX and not grant.expired(now) else None

    def grants(self) -> Mapping[str, Grant]:
        """All of them by their ids, the expired too.

        Raises:
            TokenFileError: the file is not there or cannot be read.
        """
        try:
            with open(self.path, "rb", opener=_opened_at_once) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    raise TokenFileError(f"the file of tokens {self.path} is no file: name another in UNDERTONE_TOKENS")
                state = (about.st_ino, about.st_mtime_ns, about.st_size)
                if state != self._state:
                    self._grants = _parsed(self.path, file.read(FILE_MAX_BYTES + 1))
                    self._state = state
        except OSError as error:
            raise TokenFileError(f"the file of tokens {self.path} cannot be read: {error.strerror}") from error
        return self._grants

    def add(self, grant: Grant) -> None:
        """Add a line; where the path is a link, to the file that it leads to.

        Raises:
            TokenFileError: the file cannot be read or written.
        """
        with self._locked() as path:
            known = self.grants() if path.exists() else {}
            _write(path, {**known, grant.id: grant})

    def revoke(self, token_id: str) -> bool:
        """Remove a line; False if there is none of that id. A running service takes the token no more at once.

        Raises:
            TokenFileError: the file cannot be read or written.
        """
        known = dict(self.grants())  # where there is no file, none is made
        with self._locked() as path:
            known = dict(self.grants())
            if known.pop(token_id, None) is None:
                return False
            _write(path, known)
        return True

    @contextmanager
    def _locked(self) -> Iterator[Path]:
        """The file itself, wherever links lead, while nobody else writes it."""
        try:
            path = self.path.resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f".{path.name}.lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except (OSError, RuntimeError) as error:  # the latter where links lead in a circle
            raise TokenFileError(f"{self.path} cannot be written: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield path
        finally:
            os.close(descriptor)


def _opened_at_once(path: str, flags: int) -> int:
    """A descriptor, of a pipe too, whose writer would else be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _write(path: Path, grants: Mapping[str, Grant]) -> None:
    fresh = path.with_name(f".{path.name}.new")
    lines = "".join(f"{grant.model_dump_json()}\n" for grant in grants.values())
    if len(lines.encode()) > FILE_MAX_BYTES:
        raise TokenFileError(f"{path} would have more than {FILE_MAX_BYTES} bytes: revoke tokens that are not used")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            if path.exists():  # it stays its service's, whoever writes
                before = path.stat()
                os.fchmod(file.fileno(), before.st_mode & 0o777)
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise TokenFileError(f"{path} cannot be written: {error.strerror}") from error


def token_path(cache_dir: Path, port: int) -> Path:
    """Where `undertone serve` on that port leaves its token for this user's commands."""
    return cache_dir / f"token-{port}"


def token_of(settings: Settings) -> str:
    """The token with which a command asks: the environment's, else that of `undertone serve` at that address; or none."""
    given = settings.token.get_secret_value()
    if given or not is_loopback(settings.url):
        return given
    with suppress(OSError):
        return token_path(settings.cache_dir, urlsplit(settings.url).port or 80).read_text().strip()
    return ""


def _parsed(path: Path, content: bytes) -> Mapping[str, Grant]:
    if len(content) > FILE_MAX_BYTES:
        raise TokenFileError(f"the file of tokens {path} has more than {FILE_MAX_BYTES} bytes")
    grants: dict[str, Grant] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            grant = Grant.model_validate_json(line)
        except ValidationError as error:
            where = ", ".join(".".join(map(str, one["loc"])) or "the line" for one in error.errors()[:3])
            raise TokenFileError(f"the file of tokens {path}, line {number}, is wrong ({where})") from None
        grants[grant.id] = grant
    return grants


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
