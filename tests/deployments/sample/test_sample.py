import av
import numpy as np

from deployments.sample import ANGRY_TO_CONTENT
from models.types import SAMPLE_RATE_HZ
from pipelines.types import Participant


def test_the_committed_call_has_a_voice_on_each_channel_where_its_text_says() -> None:
    with av.open(str(ANGRY_TO_CONTENT)) as container:
        assert container.streams.audio[0].rate == SAMPLE_RATE_HZ
        assert container.streams.audio[0].channels == 2
        call = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)])
    rows = [line.split("\t") for line in ANGRY_TO_CONTENT.with_suffix(".txt").read_text().splitlines()[1:]]

    assert ANGRY_TO_CONTENT.stat().st_size < 1_500_000
    assert 45 <= len(call) / SAMPLE_RATE_HZ <= 75
    assert len(rows) >= 12
    assert {row[2] for row in rows} == {"agent", "customer"}
    channels = (Participant.AGENT, Participant.CUSTOMER)
    for start_ms, end_ms, participant, _words in rows:
        spoken = call[int(start_ms) * 16 : int(end_ms) * 16].astype(np.float64)
        channel = channels.index(Participant(participant))
        assert np.sqrt(np.mean(spoken[:, channel] ** 2)) > 1000


def test_the_customer_is_louder_when_angry_than_when_content() -> None:
    with av.open(str(ANGRY_TO_CONTENT)) as container:
        call = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)])
    rows = [line.split("\t") for line in ANGRY_TO_CONTENT.with_suffix(".txt").read_text().splitlines()[1:]]
    customer = [row for row in rows if row[2] == "customer"]

    def power(row: list[str]) -> float:
        return float(np.mean(call[int(row[0]) * 16 : int(row[1]) * 16, 1].astype(np.float64) ** 2))

    assert power(customer[0]) > 2 * power(customer[-1])
