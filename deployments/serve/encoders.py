"""Every network as a Serve deployment of its own, and the `Stages` that reach them by handle or in this process.

Networks are imported where they are loaded: a replica of one spares the seconds and the memory of the others.
"""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from models.bundles import Bundle, bundle_folder, load_bundle, load_encoder, load_fusion
from models.encoders import mel
from models.errors import AudioInputError
from models.types import SAMPLE_RATE_HZ, FloatArray, Modality
from pipelines.errors import EncoderUnavailableError, NoFaceError, UnusableInputError
from pipelines.ingest.analyse import ModelNames, Stages
from pipelines.settings import AppConfig
from pipelines.types import VideoFrame

PADDING_SHARE_MAX = 0.25
DEAD_REPLICA_TRIES = 3


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network: `run` maps a list of inputs to a list of outputs, `probe` is the smallest valid input.

    `length` gives an input's size along the padded axis, so that a batch holds inputs of like length.
    """

    name: str
    run: Callable[[list[Any]], list[Any]]
    probe: Any
    length: Callable[[Any], int] | None = None
    batch_max: int | None = None


def bundle_of(config: AppConfig) -> Bundle:
    """The bundle that the configuration names, its hashes checked."""
    return load_bundle(bundle_folder(config.bundle))


def load_speech(config: AppConfig) -> Network:
    """The transcriber; PocketSphinx gains nothing from a batch, and its first caller would wait for the last."""
    from models.encoders import speech  # noqa: PLC0415  # see the module

    transcriber = speech.load_transcriber(config.transcriber, device=config.device)
    batch_max = 1 if transcriber.engine.startswith("pocketsphinx") else None
    probe = np.zeros(SAMPLE_RATE_HZ // 4, np.float32)
    # No grouping by length: Whisper pads every utterance to 30 s, so one pass over all is the cheapest.
    return Network(transcriber.engine, transcriber.transcribe, probe, batch_max=batch_max)


def load_text(config: AppConfig) -> Network:
    """The text encoder."""
    encoder = load_encoder(bundle_of(config), Modality.TEXT, config.device)
    return Network(encoder.name, encoder.encode, "hello", len)


def load_audio(config: AppConfig) -> Network:
    """The voice encoder."""
    encoder = load_encoder(bundle_of(config), Modality.AUDIO, config.device)
    tone = np.sin(np.arange(SAMPLE_RATE_HZ // 2)).astype(np.float32)
    return Network(encoder.name, encoder.encode, mel.prepare(tone), len)


def load_video(config: AppConfig) -> Network:
    """The face encoder."""
    from models.encoders import video  # noqa: PLC0415  # see the module

    encoder = load_encoder(bundle_of(config), Modality.VIDEO, config.device)
    return Network(encoder.name, encoder.encode, video.prepare(np.zeros((1, 48, 48), np.uint8)))


def load_fuser(config: AppConfig) -> Network:
    """The fusion; its probe is one text."""
    bundle = bundle_of(config)
    fuser = load_fusion(bundle, config.device)
    probe = {Modality.TEXT: load_encoder(bundle, Modality.TEXT, config.device).encode(["hello"])[0]}
    return Network(fuser.name, fuser.fuse, probe)


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices grouped so that no group pads more than a quarter of its area; together they are every index once."""
    groups: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        area = lengths[index] * (len(groups[-1]) + 1) if groups else 0
        if groups and filled + lengths[index] >= (1 - PADDING_SHARE_MAX) * area:
            groups[-1].append(index)
            filled += lengths[index]
        else:
            groups.append([index])
            filled = lengths[index]
    return groups


def run_batch(network: Network, items: list[Any]) -> list[Any]:
    """Run a batch; an input that the network refuses gets a `ValueError` as its output, its neighbours theirs."""
    if network.length is None:
        groups = [list(range(len(items)))]
    else:
        groups = like_lengths([network.length(item) for item in items])
    outputs: list[Any] = [None] * len(items)
    for group in groups:
        try:
            found = network.run([items[index] for index in group])
        except ValueError as error:
            if len(group) > 1:
                found = [run_batch(network, [items[index]])[0] for index in group]
            else:  # a plain one: to read the network's own kind, the caller would have to import torch
                found = [ValueError(str(error))]
        for index, output in zip(group, found, strict=True):
            outputs[index] = output
    return outputs


class NetworkReplica:
    """One network on one thread, batched across calls. `load` makes it from the configuration.

    Its `user_config` may set `batch_max` and `batch_wait_s`.
    """

    def __init__(self, load: Callable[[AppConfig], Network], config: AppConfig) -> None:
        self._network = load(config)
        self._thread = ThreadPoolExecutor(1, "network")
        if self._network.batch_max is not None:
            self._batching.set_max_batch_size(self._network.batch_max)

    @property
    def _batching(self) -> Any:
        # Serve hangs its setters on the decorated method, where no type sees them.
        return self._batched

    def reconfigure(self, user_config: dict[str, float]) -> None:
        """Take over new batching limits without a restart."""
        if "batch_max" in user_config and self._network.batch_max is None:
            self._batching.set_max_batch_size(int(user_config["batch_max"]))
        if "batch_wait_s" in user_config:
            self._batching.set_batch_wait_timeout_s(user_config["batch_wait_s"])

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.01)
    async def _batched(self, items: list[Any]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, run_batch, self._network, items)

    async def infer(self, item: Any) -> Any:
        """One input's output; a refused input raises a `ValueError`."""
        output = await self._batched(item)
        if isinstance(output, Exception):
            raise output
        return output

    async def name(self) -> str:
        """Name and version of what serves."""
        return self._network.name

    async def pid(self) -> int:
        """The replica's process, for tests that kill it."""
        return os.getpid()

    async def check_health(self) -> None:
        """A tiny forward pass behind whatever the thread is doing; Serve's health-check time-out is its deadline."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._network.run, [self._network.probe])


async def ask(handle: DeploymentHandle[Any], item: Any) -> Any:
    """One call over a handle, again when the replica died under it.

    Raises:
        EncoderUnavailableError: no replica answers.
        UnusableInputError: the network refused the input.
    """
    for attempt in range(DEAD_REPLICA_TRIES):
        try:
            return await handle.infer.remote(item)
        except (ActorDiedError, ActorUnavailableError) as error:
            if attempt + 1 == DEAD_REPLICA_TRIES:
                raise EncoderUnavailableError(f"{handle.deployment_name}: its replicas died: {error}") from error
        except ValueError as error:  # the network's refusal; Ray raises it as the kind of error it was
            raise UnusableInputError(f"{handle.deployment_name}: {error}") from error
        except (RayError, RayServeException) as error:
            raise EncoderUnavailableError(f"{handle.deployment_name}: {error}") from error
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Handles:
    """The five networks as deployments; bound by `app.build`, handles in the replicas that receive them."""

    transcriber: DeploymentHandle[Any]
    text: DeploymentHandle[Any]
    audio: DeploymentHandle[Any]
    video: DeploymentHandle[Any]
    fusion: DeploymentHandle[Any]


def served_stages(config: AppConfig, handles: Handles) -> Stages:
    """Stages that ask the deployments; model-sized inputs are made here, where the sound and the pictures are."""

    def asking(handle: DeploymentHandle[Any]) -> Callable[[Any], Awaitable[Any]]:
        # Below ~600 KB a payload travels fastest by value (docs/architecture.md#ray-serve-and-kafka-measured).
        by_value = handle.options(_by_reference=False)
        return lambda item: ask(by_value, item)

    return _stages(
        config,
        transcribe=asking(handles.transcriber),
        text=asking(handles.text),
        hear=asking(handles.audio),
        see=asking(handles.video),
        fuse=asking(handles.fusion),
    )


def local_stages(config: AppConfig) -> Stages:
    """The same stages with every network in this process, one thread each."""

    def running(network: Network) -> Callable[[Any], Awaitable[Any]]:
        thread = ThreadPoolExecutor(1, network.name)

        async def infer(item: Any) -> Any:
            outputs = await asyncio.get_running_loop().run_in_executor(thread, network.run, [item])
            return outputs[0]

        return infer

    return _stages(
        config,
        transcribe=running(load_speech(config)),
        text=running(load_text(config)),
        hear=running(load_audio(config)),
        see=running(load_video(config)),
        fuse=running(load_fuser(config)),
    )


def _stages(
    config: AppConfig,
    *,
    transcribe: Callable[[Any], Awaitable[Any]],
    text: Callable[[Any], Awaitable[Any]],
    hear: Callable[[Any], Awaitable[Any]],
    see: Callable[[Any], Awaitable[Any]],
    fuse: Callable[[Any], Awaitable[Any]],
) -> Stages:
    bundle = bundle_of(config)
    # MTCNN keeps no state between utterances, but one at a time keeps the memory of its pyramids bounded.
    preparing = ThreadPoolExecutor(1, "prepare")

    async def prepared(prepare: Callable[[Any], Any], raw: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(preparing, prepare, raw)

    async def voice(samples: FloatArray) -> Any:
        try:
            log_mel = await prepared(mel.prepare, samples)
        except AudioInputError as error:
            raise UnusableInputError(str(error)) from error
        return await hear(log_mel)

    async def face(frames: Sequence[VideoFrame]) -> Any:
        # Seconds, once, that a telephone call never needs; not on the thread that voices wait for.
        await asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "models.encoders.faces")
        return await see(await prepared(crops, frames))

    def crops(frames: Sequence[VideoFrame]) -> Any:
        from models.encoders import faces, video  # noqa: PLC0415  # see the module

        found = faces.find_faces([(frame.time_ms, frame.pixels) for frame in frames])
        if not len(found):
            raise NoFaceError("no face in any sampled picture")
        return video.prepare(found)

    async def fuse_features(features: Mapping[Modality, Any]) -> Any:
        return await fuse(dict(features))

    labels = {name: f"{bundle.name}/{name}@{part.sha256[:8]}" for name, part in bundle.parts.items()}
    names = ModelNames(bundle.label, labels["fusion"], {modality: labels[modality] for modality in Modality})
    return Stages(transcribe=transcribe, text=text, audio=voice, video=face, fuse=fuse_features, names=names)
