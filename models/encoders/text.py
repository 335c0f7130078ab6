"""The text encoder: a small BERT (all-MiniLM-L6-v2, pruned) that judges the words of one utterance.

Shapes: B texts, T word pieces, D width, H heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor, nn
from torch.nn import functional

from models.encoders.words import SpokenText, prepare
from models.errors import TextInputError
from models.labels import score_of
from models.types import (
    EMOTIONS,
    PARTICIPANTS,
    POLARITIES,
    Features,
    FeatureSequence,
    FloatArray,
    Modality,
    Prediction,
    Timed,
)

PAD, UNKNOWN, START, END = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""The first four pieces of every vocabulary, in this order."""

CONTEXT_SHARE = 0.5
"""Of a text's room, how much the turns before it may take."""

BATCH_TEXTS = 32


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Architecture of the text network, the numbers of all-MiniLM-L6-v2 with fewer layers and pieces.

    Attributes:
        vocabulary: Word pieces, a piece's place being its number; begins with `SPECIAL`.
        width: Length of a piece's vector and of the embedding.
        layers: Transformer blocks.
        heads: Attention heads; must divide `width`.
        hidden: Width inside a block's feed-forward part.
        pieces_max: Longest input in word pieces, the two marks around it included; the rest is cut off.
        dropout: While training.
        participants: Whom it tells apart, each with a piece of its own (`mark_of`) that stands before the judged text;
            empty: it is not told who speaks, as in weights from before 2026-11-28.
        languages: Whose words it has learned, as a transcript names them.
        emotion_temperature: What emotion logits are divided by before the softmax (Guo et al. 2017, arXiv:1706.04599, section 4.2).
        polarity_temperature: Likewise.
    """

    vocabulary: tuple[str, ...] = field(repr=False)
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    pieces_max: int = 128
    dropout: float = 0.1
    participants: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    emotion_temperature: float = 1.0
    polarity_temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.vocabulary[: len(SPECIAL)] != SPECIAL or not len(self.vocabulary) <= 200_000:
            raise ValueError(f"the vocabulary must begin with {SPECIAL} and have at most 200,000 pieces")
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError("the vocabulary repeats a piece")
        if not set(self.participants) <= set(PARTICIPANTS) or not set(map(mark_of, self.participants)) <= set(
            self.vocabulary
        ):
            raise ValueError(f"participants must be of {PARTICIPANTS}, and the vocabulary hold the mark of each")
        bounds = {"width": 4096, "layers": 48, "heads": 64, "hidden": 16_384, "pieces_max": 1024}
        for name, most in bounds.items():
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in [1, {most}], not {getattr(self, name)}")
        if self.width % self.heads or self.pieces_max < 4:
            raise ValueError("heads must divide width, and pieces_max must leave room for a piece between three marks")
        if not all(0.05 <= t <= 20 for t in (self.emotion_temperature, self.polarity_temperature)):
            raise ValueError("temperatures must be in [0.05, 20]")


def mark_of(participant: str) -> str:
    """The piece that says who speaks: no text holds it, for the tokenizer parts brackets from words."""
    return f"[{participant.upper()}]"


class Block(nn.Module):
    """One post-norm transformer block (Vaswani et al. 2017, arXiv:1706.03762, fig. 1; GELU as in BERT)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.attended = nn.Linear(config.width, config.width)
        self.attended_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)
        self.narrow_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D); `mask` (B, 1, 1, T) is True where a piece stands."""
        # (B, T, 3D) -> (3, B, H, T, D/H)
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        attended = self.dropout(self.attended(y.transpose(1, 2).flatten(2)))
        x = self.attended_norm(x + attended)
        widened = functional.gelu(self.widen(x))
        return cast(Tensor, self.narrow_norm(x + self.dropout(self.narrow(widened))))


class TextNetwork(nn.Module):
    """Word pieces to an embedding, emotion logits and polarity logits.

    The embedding is the mean over the judged text's pieces; turns before it, which a mark divides from it, are only looked at.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.pieces = _embedding(len(config.vocabulary), config.width)
        self.places = _embedding(config.pieces_max, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.emotion = nn.Linear(config.width, len(EMOTIONS))
        self.polarity = nn.Linear(config.width, len(POLARITIES))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map piece numbers (B, T), 0 after the end, to embedding (B, D), emotion (B, 7) and polarity (B, 3) logits."""
        return self.pool(*self.states(ids))

    def states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's vectors (B, T, D) of piece numbers (B, T), and which of them are judged (B, T)."""
        mask = ids != 0
        marks = ids == SPECIAL.index(END)
        judged = mask & (marks.cumsum(dim=1) >= marks.sum(dim=1, keepdim=True) - 1)
        x = self.pieces(ids) + self.places.weight[: ids.shape[1]]
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return x, judged

    def pool(self, x: Tensor, judged: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From `states` to embedding, emotion and polarity logits."""
        weight = judged.unsqueeze(-1).to(x.dtype)
        embedding = (x * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        y = self.dropout(embedding)
        return embedding, self.emotion(y), self.polarity(y)


def _embedding(rows: int, width: int) -> nn.Embedding:
    # Uniform, of BERT's standard deviation 0.02: torch's own normal start, on the meta device where checkpoints are
    # restored, would import torch's compiler, 5 s of a processor.
    bound = 0.02 * math.sqrt(3)
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width).uniform_(-bound, bound))


class PieceTokenizer:
    """Texts to piece numbers, lower-cased and without accents; what no piece covers becomes `[UNK]`."""

    def __init__(self, config: TextConfig) -> None:
        vocabulary = {piece: number for number, piece in enumerate(config.vocabulary)}
        self._marks = {one: [vocabulary[mark_of(one)]] for one in config.participants}
        self._room = config.pieces_max - 2 - bool(self._marks)
        self._tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
        self._tokenizer.normalizer = BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = BertPreTokenizer()

    def encode(self, texts: Sequence[SpokenText]) -> list[list[int]]:
        """Piece numbers of each text between its marks, at most `pieces_max` of them.

        The mark of its participant stands before the text. Of what was said before it, the last pieces stand in front,
        with a mark between; they take at most half of the room, and no room that the text needs.
        """
        start, end = SPECIAL.index(START), SPECIAL.index(END)
        rows = self._tokenizer.encode_batch([one.text for one in texts], add_special_tokens=False)
        turns = self._tokenizer.encode_batch([" ".join(one.before) for one in texts], add_special_tokens=False)
        read = []
        for text, found, turn in zip(texts, rows, turns, strict=True):
            row = found.ids[: self._room]
            room = min(self._room - 1 - len(row), int(self._room * CONTEXT_SHARE))
            front = [*turn.ids[-room:], end] if room > 0 and turn.ids else []
            read.append([start, *front, *self._marks.get(text.participant, ()), *row, end])
        return read

    def starts(self, text: str) -> list[int]:
        """The first character of each piece of a text that `encode` keeps."""
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [start for start, _ in encoded.offsets[: self._room]]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Piece numbers (B, T) of rows of different lengths, 0 after the end of each."""
    ids = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return ids


class TextEncoder:
    """The trained text network.

    Args:
        network: In `eval` mode.
        config: Its architecture.
        name: Name and hash; a result puts the bundle's name before it: `embedded/text@1a2b3c4d`.
        device: Where it runs.
    """

    def __init__(self, network: TextNetwork, config: TextConfig, *, name: str, device: str = "cpu") -> None:
        self.name = name
        self._device = torch.device(device)
        self._network = network.eval().to(self._device)
        self._pieces = PieceTokenizer(config)
        self._temperatures = (config.emotion_temperature, config.polarity_temperature)

    def probe(self) -> SpokenText:
        """A word."""
        return SpokenText("hello")

    @torch.inference_mode()
    def encode(self, batch: Sequence[str | SpokenText | Timed[SpokenText]]) -> list[Features]:
        """Judge texts: embedding (D,), emotion and polarity probabilities, score as `score_of`.

        A bare text is said by nobody knows whom. The sequence of a `Timed` text has one vector per word piece of the text.

        Only the first `pieces_max` word pieces count (about 100 words). Emoji and scripts that the vocabulary lacks
        are read as unknown pieces, so that such a text is judged close to neutral, not refused.

        Raises:
            TextInputError: An empty text, or times that are not those of its characters.
        """
        texts = [_spoken(item) for item in batch]
        rows = self._pieces.encode(texts)
        features: dict[int, Features] = {}
        # Like lengths together, so that a batch is not mostly padding.
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        for first in range(0, len(order), BATCH_TEXTS):
            places = order[first : first + BATCH_TEXTS]
            states, judged = self._network.states(pad([rows[place] for place in places]).to(self._device))
            embedding, *logits = (value.float() for value in self._network.pool(states, judged))
            heads = (_probabilities(one / t) for one, t in zip(logits, self._temperatures, strict=True))
            parts = (embedding.cpu().numpy(), *heads)
            for row, (place, vector, emotions, poles) in enumerate(zip(places, *parts, strict=True)):
                prediction = Prediction(score=score_of(poles), polarity=poles, emotion=emotions)
                sequence = self._sequence(batch[place], texts[place].text, states[row, : len(rows[place])])
                features[place] = Features(Modality.TEXT, vector, prediction, sequence)
        return [features[place] for place in range(len(rows))]

    def _sequence(
        self, item: str | SpokenText | Timed[SpokenText], text: str, states: Tensor
    ) -> FeatureSequence | None:
        """The pieces of the judged text, which end before the last mark."""
        if not isinstance(item, Timed):
            return None
        if len(item.times_ms) != len(text):
            raise TextInputError(
                f"{len(item.times_ms)} times for {len(text)} characters: send what prepare_timed gave."
            )
        starts = self._pieces.starts(text)
        vectors = states[len(states) - 1 - len(starts) : -1].float().cpu().numpy()
        return FeatureSequence(vectors, item.times_ms[starts])


def _spoken(item: str | SpokenText | Timed[SpokenText]) -> SpokenText:
    said = item.prepared if isinstance(item, Timed) else item
    return SpokenText(prepare(said)) if isinstance(said, str) else replace(said, text=prepare(said.text))


def _probabilities(logits: Tensor) -> FloatArray:
    return np.asarray(logits.softmax(dim=1).cpu(), dtype=np.float32)
