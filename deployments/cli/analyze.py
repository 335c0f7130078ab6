"""`undertone analyze`: a file through the whole analysis in this process, without a broker, a store or a server."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import typer
from rich.console import Group

from deployments.cli import render
from deployments.cli.console import CommandError, clear_errors, exit_code_of, print_out, stderr, write_json
from deployments.cli.options import DEFAULTS, Bundle, Consent, Json, Participants, Paths, Transcriber, require_named
from deployments.cli.recordings import Recording, consent_of, fragments_of
from pipelines.ingest.analyse import Analyser
from pipelines.review.summary import summarise
from pipelines.settings import AppConfig, StreamSettings
from pipelines.types import DEFAULT_CONSENT, MediaFragment, UtteranceSentiment
from pipelines.types import Consent as Policy

commands = typer.Typer()


@commands.command(
    epilog="Examples: undertone analyze clip.mp4 --participants customer · undertone analyze call.flac --participants agent,customer --json"
)
@clear_errors
def analyze(
    paths: Paths,
    *,
    participants: Participants = None,
    consent: Consent = None,
    transcriber: Transcriber = DEFAULTS.transcriber,
    bundle: Bundle = DEFAULTS.bundle,
    as_json: Json = False,
) -> None:
    """Analyse a file here and now: no broker, no server."""
    from deployments.serve.embedded import local_analyser  # noqa: PLC0415  # imports redis

    require_named(transcriber)
    cut = fragments_of(Recording(tuple(paths), participants, consent), call_id_of(paths[0]))
    config = AppConfig(transcriber=transcriber, bundle=bundle)
    with stderr().status("loading the networks …") as status:
        try:
            analyser = local_analyser(config)
        except ValueError as error:  # a checkpoint or bundle that cannot be trusted; it says what to do next
            raise CommandError(str(error), exit_code_of(error)) from error
        status.update("listening …")
        results = analyse(cut, analyser, config.stream, consent_of(consent) or DEFAULT_CONSENT)
        found = asyncio.run(_collected(results, as_json=as_json))
    if not found:
        stderr().print(f"nobody speaks in {', '.join(map(str, paths))}: there is nothing to judge")
    elif not as_json:
        found.sort(key=lambda result: result.start_ms)
        summary = render.summary(summarise(found, final=True))
        models = render.names_of_models(found)
        print_out(Group(render.Transcript(found), "", render.sentiment_line(found), "", summary, models))


async def analyse(
    cut: Iterable[MediaFragment], analyser: Analyser, settings: StreamSettings, policy: Policy
) -> AsyncIterator[UtteranceSentiment]:
    """The results of one stream, in the order in which its utterances end; `policy` is whatever its owner allows."""
    from pipelines.media.utterances import utterances_of  # noqa: PLC0415  # imports onnxruntime

    for utterance in utterances_of(cut, settings, policy=policy):
        yield await analyser(utterance)


def call_id_of(path: Path) -> str:
    """The file's name as a call id, so that the same file gives the same ids."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in path.stem
    )[:128]


async def _collected(results: AsyncIterator[UtteranceSentiment], *, as_json: bool) -> list[UtteranceSentiment]:
    """All of them; as JSON each is printed as soon as it is there."""
    found = []
    async for result in results:
        found.append(result)
        if as_json:
            write_json([result])
    return found
