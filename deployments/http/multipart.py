"""A multipart form read as it comes (RFC 7578): its fields, then the bytes of its one file, never held as a whole."""

from collections import deque
from collections.abc import AsyncIterator
from http import HTTPStatus

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.http.problems import ProblemError
from pipelines.media.raw_audio import content_type_of, names_raw_audio

FIELDS_AFTER_FILE = "fields_after_file"
"""The reason of a form that goes on after its file: what it says there may forbid what was taken by then."""
FIELDS_MAX_BYTES = 64 << 10
"""Everything but the file: fields, their names and headers, boundaries, and what follows the last of these."""

BOUNDARY_MAX_BYTES = 70
"""RFC 2046 §5.1.1."""
_ENCODINGS = {b"content-encoding", b"content-transfer-encoding"}
_PLAIN_ENCODINGS = {b"", b"identity", b"binary", b"7bit", b"8bit"}


class MultipartForm:
    """Read `fields` first, then iterate over `media`. The file must be the last part, since its bytes are not kept."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        """`content_type` is the request's; `body` its chunks.

        Raises:
            ProblemError: the content type names no boundary, or none that may be.
        """
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _malformed("the content type names no boundary")
        self.content_type: str | None = None
        """The file's own content type, or what its name says of raw sound; known once its first chunk is."""
        self._body = body
        self._fields: dict[str, str] = {}
        self._read_bytes = 0
        self._name, self._is_file, self._value = "", False, bytearray()
        self._header, self._disposition, self._part_type = bytearray(), b"", b""
        self._header_value = bytearray()
        self._chunks: deque[bytes] = deque()
        self._file_begun = self._file_ended = self._ended = False
        if len(boundary) > BOUNDARY_MAX_BYTES:
            raise _malformed(f"its boundary has {len(boundary)} bytes; RFC 2046 allows {BOUNDARY_MAX_BYTES}")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._take_header,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    async def fields(self) -> dict[str, str]:
        """Every field before the file; reads up to the file's first bytes, or to the end when there is no file."""
        while not self._file_begun and await self._read():
            pass
        return dict(self._fields)

    @property
    def has_file(self) -> bool:
        """Whether a file follows the fields."""
        return self._file_begun

    async def media(self) -> AsyncIterator[bytes]:
        """The bytes of the file."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if not await self._read():
                return

    async def _read(self) -> bool:
        chunk = await anext(self._body, None)
        if chunk is None:
            if not self._ended:
                raise _malformed("it ends in the middle")
            return False
        if self._ended:
            self._count(len(chunk))  # what follows the last boundary means nothing (RFC 2046 §5.1.1)
            return True
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error
        if not self._file_begun:
            self._count(len(chunk))
        return True

    def _count(self, count: int) -> None:
        self._read_bytes += count
        if self._read_bytes > FIELDS_MAX_BYTES:
            raise ProblemError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "oversize",
                f"the form has more than {FIELDS_MAX_BYTES} bytes besides its file; send fewer and shorter fields, and "
                "media as a file with a name",
            )

    def _begin_part(self) -> None:
        if self._file_ended:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                FIELDS_AFTER_FILE,
                "the file must be the last part of the form: put the fields before it. What they allow could not be known when it came",
            )
        self._header.clear()
        self._header_value.clear()
        self._value.clear()
        self._disposition = self._part_type = b""

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        name = bytes(self._header).lower()
        if name == b"content-disposition":
            self._disposition = bytes(self._header_value)
        elif name == b"content-type":
            self._part_type = bytes(self._header_value)
        elif name in _ENCODINGS and bytes(self._header_value).strip().lower() not in _PLAIN_ENCODINGS:
            raise _malformed("a part is encoded, which is not undone here; send each as it is (RFC 7578 §4.7)")
        self._header.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if self._is_file:
            self._file_begun = True
            said, name = self._part_type.decode("latin-1"), options[b"filename"].decode("utf-8", "replace")
            # What a client makes up for a file of raw sound (application/octet-stream) says less than its name.
            self.content_type = said if names_raw_audio(said) else content_type_of(name) or said or None

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._chunks.append(data[start:end])
            return
        self._value += data[start:end]

    def _end_part(self) -> None:
        if self._is_file:
            self._file_ended = True
        else:
            self._fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True


def _malformed(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.BAD_REQUEST, "bad_form", f"the multipart form cannot be read: {detail}")
