"""One answer out of two heads: an emotion and a polarity that go together."""

import torch
from torch import Tensor

from models.types import COMPATIBLE_EMOTIONS, EMOTIONS, POLARITIES


def answered_together(emotion: Tensor, polarity: Tensor) -> tuple[Tensor, Tensor]:
    """What two heads say of an utterance when only pairs of `COMPATIBLE_EMOTIONS` are possible.

    A pair's probability is proportional to the product of what each head gives its half (a product of experts; Hinton 2002,
    doi:10.1162/089976602760128018, section 1), so that a head that is unsure follows the other.

    Args:
        emotion: Logits (B, 7).
        polarity: Logits (B, 3).

    Returns:
        Log probabilities of the emotions (B, 7) and of the polarities (B, 3): the sums over the pairs of each.
    """
    pairs = emotion.float()[:, :, None] + polarity.float()[:, None, :]
    pairs = pairs.masked_fill(_IMPOSSIBLE.to(pairs.device), -torch.inf)
    pairs = pairs - pairs.logsumexp(dim=(1, 2), keepdim=True)
    return pairs.logsumexp(dim=2), pairs.logsumexp(dim=1)


_IMPOSSIBLE = torch.tensor([[one not in COMPATIBLE_EMOTIONS[pole] for pole in POLARITIES] for one in EMOTIONS])
