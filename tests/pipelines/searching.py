"""Looking for a word in everything that a Redis holds: the store and the embedded log."""

import json
from collections.abc import Callable
from typing import Any

import redis


def keys_with(url: str, word: str) -> set[str]:
    """The keys in whose name or value `word` stands: as it is, in hexadecimal digits, or as JSON writes it or its bytes."""
    as_bytes = word.encode()
    texts = (word, as_bytes.decode("latin-1"))
    wanted = {as_bytes, as_bytes.hex().encode(), *(json.dumps(text)[1:-1].encode() for text in texts)}
    with redis.Redis.from_url(url) as client:
        held: dict[str, bytes] = {key.decode(): key + b"\n" + _flat(_value(client, key)) for key in client.scan_iter()}
    return {key for key, content in held.items() if any(form in content for form in wanted)}


_READERS: dict[bytes, Callable[[Any, bytes], object]] = {
    b"string": lambda client, key: client.get(key),
    b"hash": lambda client, key: client.hgetall(key),
    b"set": lambda client, key: client.smembers(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1),
    b"stream": lambda client, key: client.xrange(key),
    b"none": lambda client, key: b"",  # noqa: ARG005  # it has expired meanwhile
}


def _value(client: Any, key: bytes) -> object:
    return _READERS[client.type(key)](client, key)


def _flat(value: object) -> bytes:
    match value:
        case bytes():
            return value
        case dict():
            return b"\n".join(_flat(part) for item in value.items() for part in item)
        case list() | tuple() | set():
            return b"\n".join(map(_flat, value))
    return str(value).encode()
