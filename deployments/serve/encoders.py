"""A network as a Serve deployment of its own: loaded from the configuration, batched across calls.

Networks are imported where they are loaded: a replica of one spares the seconds and the memory of the others.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ray import serve

from deployments.sample import ANGRY_TO_CONTENT
from deployments.serve.turns import Turns
from models.bundles import Bundle, bundle_folder, load_bundle, load_encoder, load_fusion
from models.data.media import read_sound
from models.errors import ModelError
from models.families import FUSION, imported
from models.types import SAMPLE_RATE_HZ, FloatArray, Modality, Spoken, Transcript
from pipelines.settings import AppConfig

PADDING_SHARE_MAX = 0.25
BATCH_MAX = 16
WARM_UP_S = 4.0
"""About as long as an utterance: networks allocate and tune by the size of what they first get."""
PICTURES_WARM_UP = 16
WORDS_WARM_UP = (
    "I have been waiting for three weeks now, and nobody has called me back. What are you going to do about it?"
)

Role = Literal["transcriber", "text", "audio", "video", "fusion"]
"""What one of the deployments does: transcribe, encode a modality, or fuse."""


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network: `run` maps a list of inputs to a list of outputs, `probe` is the smallest valid input.

    `warm_up` are inputs of the size of an utterance, of which it makes its first passes.
    `length` gives an input's size along the padded axis, so that a batch holds inputs of like length.
    """

    name: str
    run: Callable[[list[Any]], list[Any]]
    probe: Any
    length: Callable[[Any], int] | None = None
    batch_max: int | None = None
    warm_up: Sequence[Any] = ()


def bundle_of(config: AppConfig) -> Bundle:
    """The bundle that the configuration names, its hashes checked."""
    return load_bundle(bundle_folder(config.bundle))


def load(role: Role, config: AppConfig) -> Network:
    """Load the network of one deployment.

    Raises:
        ModelError: It is missing, damaged, or of a family that cannot serve there.
    """
    if role == "transcriber":
        return _load_transcriber(config)
    bundle = bundle_of(config)
    if role == FUSION:
        fuser = load_fusion(bundle, config.device)
        return Network(fuser.name, fuser.fuse, fuser.probe(), warm_up=[fuser.probe()])
    modality, family = Modality(role), bundle.family(role)
    encoder = load_encoder(bundle, modality, config.device)
    if modality is Modality.VIDEO:
        warm_up = [np.repeat(encoder.probe(), PICTURES_WARM_UP, axis=0)]
    else:
        said = Spoken(Transcript(WORDS_WARM_UP, "en", (), "given"), "customer")
        warm_up = [imported(family.prepare)(said if modality is Modality.TEXT else _speech())]
    return Network(encoder.name, encoder.encode, encoder.probe(), len if family.pads else None, warm_up=warm_up)


def _load_transcriber(config: AppConfig) -> Network:
    """On a processor a batch gains nothing, and its first caller would wait for the last."""
    from models.encoders import speech  # noqa: PLC0415  # see the module

    transcriber = speech.load_transcriber(config.transcriber, device=config.device)
    batch_max = 1 if config.device == "cpu" else None
    probe = np.zeros(SAMPLE_RATE_HZ // 4, np.float32)
    # No grouping by length: the transcriber groups by Whisper's windows itself.
    return Network(transcriber.engine, transcriber.transcribe, probe, batch_max=batch_max, warm_up=[_speech()])


def _speech() -> FloatArray:
    """The first words of the sample call."""
    speech = read_sound(ANGRY_TO_CONTENT, WARM_UP_S, channel=0)
    if speech is None:
        raise ModelError(f"{ANGRY_TO_CONTENT} is not a sound any more: install Undertone again")
    return speech


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
    """One network on one thread, batched across calls. Its `user_config` may set `batch_max` and `batch_wait_s`."""

    def __init__(self, role: Role, config: AppConfig) -> None:
        self._network = load(role, config)
        self._thread = ThreadPoolExecutor(1, "network")
        self._under_way = 0
        self._turns = Turns(0)
        self._set_batch_max(self._network.batch_max or BATCH_MAX)
        # Before anybody is told that it serves: a first pass takes many times as long as the others.
        for item in self._network.warm_up:
            self._network.run([item])

    @property
    def _batching(self) -> Any:
        # Serve hangs its setters on the decorated method, where no type sees them.
        return self._batched

    def _set_batch_max(self, batch_max: int) -> None:
        self._batching.set_max_batch_size(batch_max)
        self._turns.at_once = 2 * batch_max - 1  # one batch at work, and the next one filling

    def reconfigure(self, user_config: dict[str, float]) -> None:
        """Take over new batching limits without a restart."""
        if "batch_max" in user_config and self._network.batch_max is None:
            self._set_batch_max(int(user_config["batch_max"]))
        if "batch_wait_s" in user_config:
            self._batching.set_batch_wait_timeout_s(user_config["batch_wait_s"])

    @serve.batch(max_batch_size=BATCH_MAX, batch_wait_timeout_s=0.01)
    async def _batched(self, items: list[Any]) -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, run_batch, self._network, items)

    async def infer(self, item: Any) -> Any:
        """One input's output; a refused input raises a `ValueError`."""
        return await self._infer(item, behind=False)

    async def infer_behind(self, item: Any) -> Any:
        """`infer` behind everything that others ask: what nobody waits for does not hold up a live call."""
        return await self._infer(item, behind=True)

    async def _infer(self, item: Any, *, behind: bool) -> Any:
        self._under_way += 1
        try:
            async with self._turns.turn(behind=behind):
                output = await self._batched(item)
        finally:
            self._under_way -= 1
        if isinstance(output, Exception):
            raise output
        return output

    async def infer_if_idle(self, item: Any) -> Any:
        """`infer` while nothing else is asked of this replica, else None at once: what may be left out makes nobody wait."""
        return None if self._under_way else await self.infer(item)

    async def name(self) -> str:
        """Name and version of what serves."""
        return self._network.name

    async def pid(self) -> int:
        """The replica's process, for tests that kill it."""
        return os.getpid()

    async def check_health(self) -> None:
        """A tiny forward pass behind whatever the thread is doing; Serve's health-check time-out is its deadline."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._network.run, [self._network.probe])
