"""The networks as a worker or the gateway reaches them: by Serve handle, or loaded into this process.

A call's sound, pictures and words are prepared here, where they are, so that little travels; so nothing here imports torch
before a picture comes.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, get_args

from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.serve.encoders import Role, bundle_of, load
from deployments.serve.turns import Turns
from models.errors import FaceNotFoundError, ModelError
from models.families import FUSION, Family, imported
from models.types import Features, FloatArray, FusedPrediction, Modality, Transcript
from pipelines.errors import EncoderUnavailableError, NoFaceError, UnusableInputError
from pipelines.ingest.analyse import Analyser, ModelNames, Stages
from pipelines.settings import AppConfig

DEAD_REPLICA_TRIES = 3

Infer = Callable[[Any], Awaitable[Any]]
"""One network: a prepared input in, its output out."""


async def ask(handle: DeploymentHandle[Any], item: Any, method: str = "infer") -> Any:
    """One call of a replica's method over a handle, again when the replica died under it.

    Raises:
        EncoderUnavailableError: no replica answers.
        UnusableInputError: the network refused the input.
    """
    for attempt in range(DEAD_REPLICA_TRIES):
        try:
            return await getattr(handle, method).remote(item)
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


def served_analyser(config: AppConfig, handles: Handles, answer_s: float | None = None) -> Analyser:
    """An analyser that asks the deployments; `answer_s` as `Analyser` has it."""

    def asking(method: str) -> Mapping[str, Infer]:
        # Below ~600 KB a payload travels fastest by value (docs/architecture.md#ray-serve-and-kafka-measured).
        named = {field.name: getattr(handles, field.name).options(_by_reference=False) for field in fields(handles)}
        return {name: partial(ask, handle, method=method) for name, handle in named.items()}

    is_waited_for = answer_s is not None
    return _analyser(config, asking("infer"), asking("infer" if is_waited_for else "infer_behind"), answer_s)


def idle_transcriber(handles: Handles) -> Callable[[FloatArray], Awaitable[Transcript | None]]:
    """The words of samples (N,) at 16 kHz where the transcriber has nothing else to do, else None at once."""
    return partial(ask, handles.transcriber.options(_by_reference=False), method="infer_if_idle")


def local_analyser(config: AppConfig) -> Analyser:
    """An analyser with every network in this process, one thread each; a replay's tries again, else nobody does.

    Raises:
        ValueError: a network cannot be had, or the device is not there; the message says what to do next.
    """
    import torch  # noqa: PLC0415  # seconds that the gateway's replicas, which load no network, spare

    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"the configuration asks for a GPU (device: {config.device}), and this machine has none: run it where there is one, "
            "or with a configuration that says device: cpu"
        )

    def running(role: Role) -> Infer:
        network = load(role, config)
        thread = ThreadPoolExecutor(1, network.name)

        async def infer(item: Any) -> Any:
            outputs = await asyncio.get_running_loop().run_in_executor(thread, network.run, [item])
            return outputs[0]

        return infer

    networks = {role: running(role) for role in get_args(Role)}
    return _analyser(config, networks, networks, answer_s=math.inf if config.is_live else None)


def _analyser(
    config: AppConfig, networks: Mapping[str, Infer], behind: Mapping[str, Infer], answer_s: float | None
) -> Analyser:
    """What differs by tenant reaches the analyser as the one value that `AppConfig.tenant` gives."""
    for tenant in config.tenants.values():
        _ = tenant.redact.redactor  # a recogniser of names that is not installed is said at the start
    bundle = bundle_of(config)
    timed = bundle.family(FUSION).wants_sequences
    preparations = {
        modality: _Preparation(modality, _preparation(bundle.family(modality), timed=timed)) for modality in Modality
    }
    labels = {name: f"{bundle.name}/{name}@{part.sha256[:8]}" for name, part in bundle.parts.items()}
    names = ModelNames(bundle.label, labels[FUSION], {modality: labels[modality] for modality in Modality})

    def stages(networks: Mapping[str, Infer], *, behind: bool) -> Stages:
        async def fuse(features: Mapping[Modality, Features]) -> FusedPrediction:
            fused: FusedPrediction = await networks[FUSION](dict(features))
            return fused

        def encoding(modality: Modality) -> Callable[[Any], Awaitable[Features]]:
            async def encode(raw: Any) -> Features:
                features: Features = await networks[modality](await preparations[modality].of(raw, behind=behind))
                return features

            return encode

        encode = {modality: encoding(modality) for modality in Modality}
        return Stages(networks["transcriber"], encode, fuse, names, bundle.languages)

    ahead = stages(networks, behind=False)
    return Analyser(ahead, config.tenant, stages(behind, behind=True), live=config.is_live, answer_s=answer_s)


class _Preparation:
    """What makes of a raw input of one modality what its network takes, on a thread of its own.

    One at a time: a detector's pyramids of 16 pictures are large. Words and voices need not wait for it.
    """

    def __init__(self, modality: Modality, place: str) -> None:
        """`place` is where the function is (`Family.prepare`)."""
        self._place, self._thread, self._turns = place, ThreadPoolExecutor(1, f"prepare-{modality}"), Turns(1)

    async def of(self, raw: Any, *, behind: bool) -> Any:
        """The prepared input; raises `NoFaceError` and `UnusableInputError`."""
        loop = asyncio.get_running_loop()
        async with self._turns.turn(behind=behind):
            # A detector of faces takes seconds to import, which a telephone call never needs.
            prepare = await loop.run_in_executor(self._thread, imported, self._place)
            try:
                return await loop.run_in_executor(self._thread, prepare, raw)
            except FaceNotFoundError as error:
                raise NoFaceError(str(error)) from error
            except ModelError as error:
                raise UnusableInputError(str(error)) from error


def _preparation(family: Family, *, timed: bool) -> str:
    """Where the function is that prepares raw input; `Timed` where the fusion wants sequences and the encoder gives them."""
    return family.prepare_timed if timed and family.prepare_timed else family.prepare
