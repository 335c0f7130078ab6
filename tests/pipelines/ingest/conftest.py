import pytest

from models.types import FloatArray
from tests.pipelines.working import Voice, speech


@pytest.fixture(scope="module")
def sound(vowels: Voice) -> FloatArray:
    return speech(vowels)
