"""`undertone analyze`: a file through the whole analysis in this process, without a broker, a store or a server."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from rich.console import Group

from deployments.cli import render
from deployments.cli.console import CommandError, aside, print_out, write_json
from deployments.cli.send import Order, fragments_of
from deployments.serve.embedded import local_analyser
from pipelines.ingest.analyse import Analyser
from pipelines.media.utterances import utterances_of
from pipelines.review.summary import summarise
from pipelines.settings import AppConfig, StreamSettings
from pipelines.types import MediaFragment, UtteranceSentiment


def run(
    paths: Sequence[Path],
    participants: str | None,
    consent: str | None,
    *,
    transcriber: str,
    bundle: str,
    as_json: bool,
) -> None:
    """Analyse, and print each result as it comes (JSON) or all of them with their summary.

    Raises:
        CommandError: the files or options do not fit, or a network cannot be loaded.
        MediaError: no media.
    """
    cut = fragments_of(Order(tuple(paths), None, participants, consent), call_id_of(paths[0]))
    config = AppConfig(transcriber=transcriber, bundle=bundle)
    with aside().status("loading the networks …") as status:
        try:
            analyser = local_analyser(config)
        except ValueError as error:  # a checkpoint or bundle that cannot be trusted; it says what to do next
            raise CommandError(str(error)) from error
        status.update("listening …")
        if as_json:
            found = asyncio.run(_written(analyse(cut, analyser, config.stream)))
        else:
            found = asyncio.run(_collected(analyse(cut, analyser, config.stream)))
    if not found:
        aside().print(f"nobody speaks in {', '.join(map(str, paths))}: there is nothing to judge")
    elif not as_json:
        found.sort(key=lambda result: result.start_ms)
        summary = render.summary(summarise(found, final=True))
        print_out(Group(render.transcript(found), "", render.sentiment_line(found), "", summary))


async def analyse(
    cut: Iterable[MediaFragment], analyser: Analyser, settings: StreamSettings
) -> AsyncIterator[UtteranceSentiment]:
    """The results of one stream, in the order in which its utterances end."""
    for utterance in utterances_of(cut, settings):
        yield await analyser(utterance)


def call_id_of(path: Path) -> str:
    """The file's name as a call id, so that the same file gives the same ids."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in path.stem
    )[:128]


async def _collected(results: AsyncIterator[UtteranceSentiment]) -> list[UtteranceSentiment]:
    return [result async for result in results]


async def _written(results: AsyncIterator[UtteranceSentiment]) -> list[UtteranceSentiment]:
    found = []
    async for result in results:
        write_json([result])
        found.append(result)
    return found
