"""A fragment's media decoded in a process of its own, to see whether it is the media that kills.

A worker dies for many reasons; a fragment that was at work when two of them died is suspect, not guilty. The trial
costs half a second and is asked for only then.
"""

import contextlib
import logging

from pipelines.errors import MediaError
from pipelines.media.decoder_process import DecoderKilledError, DecoderProcesses
from pipelines.media.demux import Demuxer
from pipelines.media.picture_buffer import decoded
from pipelines.settings import StreamSettings
from pipelines.types import MediaFragment

TRIAL_S = 60

logger = logging.getLogger(__name__)


def trial(fragment: MediaFragment, settings: StreamSettings) -> str | None:
    """How the process ended that decoded `fragment` by itself; None when it was not the media that ended it.

    A fragment that is refused with an error has not killed anybody, and a process that could not even begin says
    nothing about it.
    """
    try:
        with contextlib.closing(DecoderProcesses()) as processes:
            processes.run(_decode, fragment, settings, cpu_max_s=TRIAL_S)
    except DecoderKilledError as error:
        return str(error)
    except MediaError:
        return None
    except Exception as error:  # noqa: BLE001  # the process' own
        logger.error("a trial of call %s tells nothing: %s", fragment.call_id, error)  # noqa: TRY400  # the trace is of here
    return None


def _decode(fragment: MediaFragment, settings: StreamSettings) -> None:
    demuxer = Demuxer(settings)
    decoded(demuxer.feed(fragment).pictures, settings)
    demuxer.finish()
