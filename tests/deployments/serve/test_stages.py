import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deployments.serve.stages import Handles, local_analyser, served_analyser
from models import checkpoint
from models.bundles import EMBEDDED, INDEX, load_bundle
from models.families import FAMILIES, Family
from models.types import Contribution, Features, FusedPrediction, Modality
from pipelines.settings import AppConfig
from pipelines.types import Participant, Utterance, UtteranceSentiment
from tests.models.encoders.voice import voice


def test_the_worker_and_the_gateway_prepare_a_voice_without_importing_torch() -> None:
    program = """
import asyncio, sys
from types import SimpleNamespace
import numpy as np
import deployments.serve.gateway, deployments.serve.ingest
from deployments.serve.stages import Handles, idle_transcriber, served_analyser
from models.types import Modality, Spoken, Transcript
from pipelines.settings import AppConfig

async def seen(prepared):
    return prepared.shape if hasattr(prepared, "shape") else prepared

async def busy(prepared):
    return None

replica = SimpleNamespace(infer=SimpleNamespace(remote=seen), infer_if_idle=SimpleNamespace(remote=busy))
handle = SimpleNamespace(options=lambda **_: replica)
handles = Handles(handle, handle, handle, handle, handle)
assert asyncio.run(idle_transcriber(handles)(np.zeros(16_000, dtype=np.float32))) is None
encode = served_analyser(AppConfig(), handles).stages.encode
assert asyncio.run(encode[Modality.AUDIO](np.sin(np.arange(16_000, dtype=np.float32)))) == (100, 80)
said = asyncio.run(encode[Modality.TEXT](Spoken(Transcript(" well  done ", "en", (), "test"), "agent")))
assert (said.text, said.participant) == ("well done", "agent")
sys.exit('torch' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class OverTimeConfig:
    """Nothing to choose."""


class OverTimeNetwork(nn.Module):
    """A weight, so that there is something to save."""

    def __init__(self, _config: OverTimeConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class OverTime:
    """A fusion that reads sequences: it weighs each modality by the steps that it has."""

    def __init__(self, network: OverTimeNetwork, config: OverTimeConfig, *, name: str, device: str) -> None:
        self.name, self.network, self.config, self.device = name, network, config, device

    def probe(self) -> dict[Modality, Features]:
        return {}

    def fuse(self, batch: Sequence[Mapping[Modality, Features]]) -> list[FusedPrediction]:
        fused = []
        for present in batch:
            steps = {modality: len(one.sequence.times_ms) for modality, one in present.items() if one.sequence}
            weights = {modality: steps.get(modality, 0) / max(sum(steps.values()), 1) for modality in present}
            first = next(iter(present.values())).prediction
            change = np.zeros(3, np.float32), np.zeros(7, np.float32)
            contributions = {modality: Contribution(0.0, *change) for modality in present}
            fused.append(FusedPrediction(first, weights, contributions))
        return fused


def judged(bundle: str) -> UtteranceSentiment:
    analyser = local_analyser(AppConfig(bundle=bundle))
    consent = frozenset({Modality.AUDIO, Modality.TEXT})
    said = Utterance("c", "default", "main", Participant.CUSTOMER, 0, 1500, consent, voice(1.5), (), "thank you")
    return asyncio.run(analyser(said))


@pytest.mark.slow
@pytest.mark.parametrize("wants_sequences", [True, False])
def test_encoders_send_sequences_where_the_fusion_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, wants_sequences: bool
) -> None:
    family = Family(__name__, "OverTimeConfig", "OverTimeNetwork", "OverTime", wants_sequences=wants_sequences)
    monkeypatch.setitem(FAMILIES, "over_time", family)
    config = OverTimeConfig()
    sha256 = checkpoint.save(
        tmp_path / "fusion.safetensors", OverTimeNetwork(config).state_dict(), config, name="over_time"
    )
    encoders = {
        modality.value: {
            "folder": str(EMBEDDED),
            "files": {f"{modality}.safetensors": load_bundle(EMBEDDED).parts[modality].sha256},
        }
        for modality in Modality
    }
    parts = {**encoders, "fusion": {"file": "fusion.safetensors", "sha256": sha256}}
    (tmp_path / INDEX).write_text(json.dumps({"format": 2, "name": "over-time", "version": "1", "parts": parts}))

    result = judged(str(tmp_path))

    weights = {modality: result.modalities[modality].weight for modality in (Modality.AUDIO, Modality.TEXT)}
    if wants_sequences:
        assert min(weight or 0 for weight in weights.values()) > 0
        assert sum(weight or 0 for weight in weights.values()) == pytest.approx(1, abs=1e-3)
    else:
        assert set(weights.values()) == {0}


@pytest.mark.slow
def test_the_embedded_bundle_judges_voice_and_words() -> None:
    result = judged("embedded")
    assert {modality for modality, one in result.modalities.items() if one.used} == {Modality.AUDIO, Modality.TEXT}
    assert result.modalities[Modality.VIDEO].missing == "not_consented"
    assert {"text", "audio", "fusion", "total"} <= set(result.step_ms)


@dataclass
class Asked:
    """A handle that notes which method it is asked for, as Serve's own gives one for any name."""

    methods: list[str] = field(default_factory=list)
    deployment_name: str = "Transcriber"

    def options(self, **_options: object) -> "Asked":
        return self

    def __getattr__(self, method: str) -> object:
        async def remote(item: object) -> object:
            self.methods.append(method)
            return item

        return SimpleNamespace(remote=remote)


@pytest.mark.parametrize(("answer_s", "method"), [(None, "infer_behind"), (9.0, "infer")])
async def test_what_nobody_waits_for_is_asked_behind_the_rest_and_an_answer_is_waited_for(
    answer_s: float | None, method: str
) -> None:
    handle: Any = Asked()
    analyser = served_analyser(AppConfig(), Handles(*[handle] * 5), answer_s)
    assert analyser.behind is not None

    await analyser.stages.transcribe(voice(0.1))
    await analyser.behind.transcribe(voice(0.1))

    assert handle.methods == ["infer", method]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_configuration_for_a_gpu_says_what_is_missing_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="asks for a GPU"):
        local_analyser(AppConfig(device="cuda"))
