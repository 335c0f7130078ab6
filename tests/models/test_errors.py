import inspect

from models import errors
from models.errors import ModelError

KINDS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind is not ModelError}


def test_every_error_has_the_one_root_and_is_the_built_in_error_that_it_is_a_kind_of() -> None:
    assert len(KINDS) == 13
    for name, kind in KINDS.items():
        built_in = RuntimeError if name == "WhisperError" else ValueError
        assert issubclass(kind, ModelError)
        assert issubclass(kind, built_in)
        assert kind.__doc__
