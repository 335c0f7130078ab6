"""How a command reaches the log and the store of a running system: from the environment, or `undertone serve` here."""

import asyncio
import os
import pwd
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from deployments.cli.console import EXIT_AWAY, EXIT_NOT_FOUND, EXIT_USAGE, CommandError, settings, stderr
from deployments.cli.options import LogName
from pipelines.consent import UNLIMITED
from pipelines.log.producer import Producer
from pipelines.settings import AppConfig, Settings
from pipelines.store.chain import Action, CallAccess
from pipelines.types import LIVE_RUN, TOPIC_DEAD_LETTER, TOPIC_MEDIA, CallRef, Consent, MediaFragment

if TYPE_CHECKING:  # they import kafka or redis, which `undertone --help` spares
    from pipelines.log.dead_letter import Letter
    from pipelines.log.topic_reader import TopicReader
    from pipelines.seal import Seal
    from pipelines.store.store import Store

T = TypeVar("T")

DEFAULT_PORT = 8000


@dataclass(frozen=True, slots=True)
class System:
    """A running system: its configuration, and the settings that say where its log and its store are."""

    config: AppConfig
    settings: Settings

    def reader(self, topic: str, config: AppConfig | None = None) -> "TopicReader":
        """A reader of one of the log's topics; `config` names another run than the system's own."""
        from pipelines.log.choose import open_reader  # noqa: PLC0415  # imports kafka

        return open_reader(config or self.config, self.settings, topic)

    def producer(self) -> Producer:
        """A producer to the log."""
        from pipelines.log.choose import open_producer  # noqa: PLC0415  # imports kafka

        return open_producer(self.config, self.settings)

    def letters(self) -> "Iterator[Letter]":
        """Every dead letter, once."""
        from pipelines.log.dead_letter import read_letters  # noqa: PLC0415  # imports kafka

        with closing(self.reader(TOPIC_DEAD_LETTER)) as reader:
            yield from read_letters(reader.records(reader.extents()))

    def store(self, run: str) -> "Store":
        """The store under the name of a run. The caller closes it."""
        from pipelines.store.store import Store  # noqa: PLC0415  # imports redis

        return Store.connect(self.settings.redis.get_secret_value(), run)

    @contextmanager
    def sealing(
        self, call: CallRef, claim: "Callable[[Store, Consent | None], Awaitable[None]] | None" = None
    ) -> "Iterator[Callable[[MediaFragment], MediaFragment]]":
        """How a fragment of the call is made for the log (`records.seal_fragment`), by the policies of the service that runs.

        A service that has told none leaves nothing out but what the fragment's own header does: its worker knows its policies.
        Where the store cannot be reached from here it stands there as it is, and whoever sends is told so. Where it can, `claim` is
        awaited before: with it, and with the tenant's policy where the service has told one.

        Raises:
            CallDeletedError: the call was deleted.
        """
        from pipelines.log.records import seal_fragment  # noqa: PLC0415  # needs a moment

        if not self.settings.redis.get_secret_value():
            stderr().print(
                "no store is named: the log takes the call unsealed, and forgetting it will not reach it there; set UNDERTONE_REDIS"
            )
            yield lambda fragment: fragment
            return

        async def prepared(store: "Store") -> tuple["Seal", Consent | None]:
            told = await store.service.tenants()
            policy = None if told is None else self.config.with_tenants(told).tenant(call.tenant).policy
            if claim is not None:
                await claim(store, policy)
            return await store.seals.of_call(call, TOPIC_MEDIA), policy

        seal, policy = self.with_store(prepared, LIVE_RUN)
        yield lambda fragment: seal_fragment(fragment, seal, UNLIMITED if policy is None else policy)
        if self.config.source != "redis":
            self.with_store(lambda store: store.seals.keep(seal), LIVE_RUN)

    def with_store(self, work: "Callable[[Store], Awaitable[T]]", run: str) -> T:
        """What `work` returns of the store, run to its end in an event loop of its own."""

        async def connected() -> T:
            store = self.store(run)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(connected())

    def note(self, action: Action, calls: Mapping[CallRef, str]) -> None:
        """Note in the trails of accesses what this user is about to see or do: first this, then show or do it.

        `calls` has for each of the calls what of it, in a few words.

        Raises:
            StoreUnavailableError: it cannot be noted, so that nothing may be shown or done.
        """
        from pipelines.store.client import chunks  # noqa: PLC0415  # imports redis

        async def noted(store: "Store") -> None:
            told = await store.service.tenants()
            config = self.config if told is None else self.config.with_tenants(told)
            for some in chunks(list(calls.items())):  # those that are noted at once go in one step
                await asyncio.gather(*(note_by_hand(store, config, action, *one) for one in some))

        self.with_store(noted, LIVE_RUN)


async def note_by_hand(store: "Store", config: AppConfig, action: Action, call: CallRef, detail: str) -> None:
    """Note what the user of this command line does with a call, which `config` says how long to remember.

    Raises:
        StoreUnavailableError: it cannot be noted.
    """
    try:  # not what the environment says, which anybody may set
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    access = CallAccess(action, call, f"user:{user}", f"command line on {socket.gethostname()}", detail)
    await store.accesses.note(access, config.tenant(call.tenant).accesses_ttl_s)


def connect(source: LogName | None, config_file: Path | None = None, *, needs_store: bool = True) -> System:
    """The system that the environment names, or the one that `undertone serve` runs on this machine.

    Without `needs_store` it is enough that the log is named, which may be Kafka alone;
    the store is then known where the environment names it, since one that runs here may be another system's.

    Raises:
        CommandError: there is none, or the configuration that it is said to run with is wrong.
    """
    where = settings()
    if needs_store:
        where = with_local_redis(where)
    chosen = source_of(where, source)
    if chosen == "redis":
        where = with_local_redis(where)
    return System(configuration(config_file, {"source": chosen}), where)


def source_of(where: Settings, asked: LogName | None) -> LogName:
    """The log of fragments: as asked, else Kafka where it is named.

    Raises:
        CommandError: Kafka is asked for and not named.
    """
    if asked == "kafka" and not where.kafka:
        raise CommandError("no Kafka is named: set UNDERTONE_KAFKA=host:port, or start one: make kafka", EXIT_USAGE)
    return asked or ("kafka" if where.kafka else "redis")


def configuration(path: Path | None, changes: Mapping[str, object]) -> AppConfig:
    """The configuration in the Serve config file at `path`, or the defaults, with changes.

    Raises:
        CommandError: there is none, or it is wrong.
    """
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # comes with Ray, without types; seldom needed

    args: dict[str, Any] = {}
    try:
        if path is not None:
            args = yaml.safe_load(path.read_text())["applications"][0]["args"]
        return AppConfig.model_validate({**args, **changes})
    except (OSError, yaml.YAMLError, LookupError, TypeError, UnicodeDecodeError, ValidationError) as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_USAGE
        raise CommandError(f"{path or 'the command line'} gives no configuration: {error}", code) from error


def with_local_redis(where: Settings) -> Settings:
    """Settings that reach the Redis of `undertone serve` on this machine where the environment names no other.

    Raises:
        CommandError: there is none; the socket of one that was killed is none either.
    """
    if where.redis.get_secret_value():
        return where
    path = where.cache_dir / f"redis-{urlsplit(where.url).port or DEFAULT_PORT}" / "redis.sock"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            raise CommandError(
                "nothing runs here: start `undertone serve` in another window, or name what runs elsewhere with "
                "UNDERTONE_KAFKA=host:port or UNDERTONE_REDIS=redis://host:6379",
                EXIT_AWAY,
            ) from error
    return where.model_copy(update={"redis": SecretStr(f"unix://{path}")})
