import pytest
import torch

from models.calibration import temperature


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.0])
def test_it_finds_the_temperature_that_the_labels_were_drawn_with(true_temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4_000, 5, generator=generator)
    labels = torch.multinomial((logits / true_temperature).softmax(dim=1), 1, generator=generator)[:, 0]

    assert temperature(logits, labels) == pytest.approx(true_temperature, rel=0.1)


def test_it_stays_within_its_bounds() -> None:
    logits, labels = torch.tensor([[5.0, 0.0]] * 10), torch.zeros(10, dtype=torch.long)

    assert temperature(logits, labels) == pytest.approx(0.25)
    assert temperature(logits, 1 - labels) == pytest.approx(4.0)
