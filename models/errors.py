"""Every error that `models` can name, under one root. Each is also the built-in error it is a kind of; importing it imports no torch.

A message says what to do next. Whoever shows errors to a person catches `ModelError`; anything else is a fault of the code.
"""


class ModelError(Exception):
    """Base of all of them."""


class AudioInputError(ModelError, ValueError):
    """Sound that cannot be judged; the utterance goes on without the audio modality."""


class VideoInputError(ModelError, ValueError):
    """Pictures that hold no face to judge; the utterance goes on without the video modality."""


class FaceInputError(ModelError, ValueError):
    """Pictures of a shape, type or size that cannot be searched for a face."""


class FaceNotFoundError(VideoInputError):
    """No face in any picture of the utterance."""


class TextInputError(ModelError, ValueError):
    """A text without a word to judge; the utterance goes on without the text modality."""


class FusionInputError(ModelError, ValueError):
    """An utterance without any modality, or features that the fusion was not trained for."""


class CheckpointError(ModelError, ValueError):
    """A checkpoint that cannot be trusted or does not fit."""


class BundleError(ModelError, ValueError):
    """A bundle, or a part of one, that is missing, changed or incomplete."""


class DataError(ModelError, ValueError):
    """A data set that is missing or holds nothing to use."""


class TrainError(ModelError, ValueError):
    """The training cannot start or go on."""


class EvaluateError(ModelError, ValueError):
    """The evaluation cannot start."""


class TranscriberError(ModelError, ValueError):
    """The configured transcriber is neither a file, nor a model name that Whisper knows."""


class WhisperError(ModelError, RuntimeError):
    """Whisper's weights are missing, changed or cannot be loaded, or samples are not one utterance."""
