"""Requests that no client would send: HTTP that is malformed, bodies that are no request."""

from __future__ import annotations

import json
from typing import Any

CHAT = "/v1/chat/completions"
GOOD = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}


def request(body: bytes | str | Any, path: str = CHAT, *lines: str, method: str = "POST") -> bytes:
    """A whole request, whatever its body is."""
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else None
    raw = json.dumps(body).encode() if raw is None else raw
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *lines]
    if not any(line.lower().startswith(("content-length", "transfer-enc")) for line in lines):
        head.append(f"Content-Length: {len(raw)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + raw


def chat(**fields: Any) -> bytes:
    return request({**GOOD, **fields})


def of(text: str | bytes) -> bytes:
    """A chat with these bytes in place of a message's content."""
    raw = text.encode() if isinstance(text, str) else text
    return request(json.dumps(GOOD).encode().replace(b'"Hi"', raw))


def number(text: bytes) -> bytes:
    """A chat with these bytes as its temperature."""
    return request(json.dumps({**GOOD, "temperature": "T"}).encode().replace(b'"T"', text))


def chunked(body: bytes, coding: str = "chunked", *lines: str) -> bytes:
    return request(body, CHAT, f"Transfer-Encoding: {coding}", *lines)


MALFORMED = {
    "nothing but line ends": b"\r\n\r\n\r\n\r\nX\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60 + b"\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a version that is none": b"GET / HTTP/x.y\r\nHost: localhost\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a control character in the path": b"GET /\x07 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a byte above 127 in the path": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an empty method": b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method that is none": b"G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no Host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: localhost\r\nnothing\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: localhost\r\nX : y\r\n\r\n",
    "a folded header": request(b"", "/nope", "A: b", " X: y", method="GET"),
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "a carriage return in a header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n",
    "length -1": request(b"{}", CHAT, "Content-Length: -1"),
    "length 1.5": request(b"{}", CHAT, "Content-Length: 1.5"),
    "length +2": request(b"{}", CHAT, "Content-Length: +2"),
    "length in hexadecimal": request(b"{}", CHAT, "Content-Length: 0x2"),
    "two lengths": request(b"{}", CHAT, "Content-Length: 2", "Content-Length: 3"),
    "a length of 40 digits": request(b"{}", CHAT, "Content-Length: " + "9" * 40),
    "a length above the limit": request(b"{}", CHAT, "Content-Length: 300001"),
    "length and chunks": chunked(b"0\r\n\r\n", "chunked", "Content-Length: 5"),
    "an encoding that is none": chunked(b"x", "xchunked"),
    "chunked twice": chunked(b"0\r\n\r\n", "chunked, chunked"),
    "gzip as an encoding of the transfer": chunked(b"0\r\n\r\n", "gzip"),
    "a chunk that is no number": chunked(b"zz\r\nx\r\n0\r\n\r\n"),
    "a chunk of negative size": chunked(b"-1\r\nx\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": chunked(b"1\r\nxyz\r\n0\r\n\r\n"),
    "a huge chunk": chunked(b"ffffffffffff\r\n{"),
    "chunks above the limit": chunked(
        b"".join(b"ffff\r\n" + b" " * 65535 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
    ),
    "an upgrade": request(b"{}", CHAT, "Upgrade: websocket", "Connection: Upgrade"),
    "an expectation that is none": request(b"{}", CHAT, "Expect: 200-ok"),
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a proxy's request": b"GET http://evil/ HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
    "headers without end": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 30_000,
    "a long path": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path out of here": request(b"", "/../../etc/passwd", method="GET"),
    "an encoded path out of here": request(b"", "/v1/models/..%2f..%2fetc/passwd", method="GET"),
    "a path that is no UTF-8": request(b"", "/v1/models/%ff%fe", method="GET"),
    "NUL in a path": request(b"", "/v1/models/%00", method="GET"),
    "a half head": b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: loc",
    "a half body": request(b'{"messages": [', CHAT, "Content-Length: 500"),
    "chunks without end": chunked(b"5\r\n{\"a\":"),
    "two requests in one, the second broken": request("{").replace(
        b"close", b"keep-alive"
    ) + b"X\r\n\r\n",
}  # fmt: skip

BODIES = {
    "nothing": request(b""),
    "a space": request(b" "),
    "a byte order mark": request(b"\xef\xbb\xbf{}"),
    "UTF-16": request(json.dumps(GOOD).encode("utf-16")),
    "invalid UTF-8": of(b'"\xff\xff"'),
    "a cut character": request(b'{"messages": "\xf0\x9f\x97"}'),
    "an overlong NUL": request(b'{"messages": "\xc0\x80"}'),
    "half a surrogate pair": of('"\\ud800"'),
    "a raw newline in a string": of('"a\nb"'),
    "half of an object": request(json.dumps(GOOD)[:-1]),
    "two objects": request("{}{}"),
    "a list": request("[]"),
    "a string": request('"x"'),
    "null": request("null"),
    "NaN": number(b"NaN"),
    "Infinity": number(b"Infinity"),
    "1e400": number(b"1e400"),
    "a number of 10,000 digits": number(b"9" * 10_000),
    "an exponent of 10 digits": number(b"1e1000000000"),
    "a leading zero": number(b"007"),
    "a comment": request("{/* */}"),
    "single quotes": request("{'messages': []}"),
    "lists 100,000 deep": of("[" * 100_000 + "]" * 100_000),
    "objects 20,000 deep": of('{"a":' * 20_000 + "1" + "}" * 20_000),
    "lists 500 deep": of("[" * 500 + "]" * 500),
    "an unclosed list, deep": request("[" * 200_000),
    "gzip": request(b"\x1f\x8b\x08" + b"\0" * 30, CHAT, "Content-Encoding: gzip"),
    "brotli by name": request(GOOD, CHAT, "Content-Encoding: br"),
    "a form": request("messages=x&max_tokens=1", CHAT, "Content-Type: multipart/form-data"),
    "XML": request("<messages/>", CHAT, "Content-Type: application/xml"),
    "no messages": request({"max_tokens": 1}),
    "messages that are none": chat(messages=[1, None, "x", []]),
    "20,000 messages": chat(messages=[{"role": "user", "content": ""}] * 5_000 + [{}] * 5_001),
    "a picture from here": chat(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]}]),
    "a file of this machine": chat(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
    "a million answers": chat(n=10**6),
    "a token limit beyond all": chat(max_tokens=10**30),
    "true where a number is meant": chat(n=True),
    "21 likely tokens": chat(logprobs=True, top_logprobs=21),
    "a bias for a token that is none": chat(logit_bias={"99999999": 1}),
    "a bias for a name": chat(logit_bias={"__class__": 1}),
    "100 stop strings": chat(stop=["x"] * 100),
    "an empty stop string": chat(stop=""),
    "a template of the client's": chat(chat_template_kwargs={"messages": []}),
    "a class as a template's variable": chat(chat_template_kwargs={"__class__": 1}),
    "a tool without a name": chat(tools=[{"type": "function", "function": {}}]),
    "a schema that refers to itself": chat(response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"$ref": "#"}}}),
    "a schema from elsewhere": chat(response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"$ref": "http://127.0.0.1:1/s.json"}}}),
    "a schema of 90 levels": chat(response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": json.loads('{"items":' * 90 + "{}" + "}" * 90)}}),
    "a hostile regular expression": chat(structured_outputs={"regex": "(a+)+b(?=c)"}),
    "a grammar that is none": chat(structured_outputs={"grammar": "\0"}),
    "another effort": chat(reasoning_effort="a" * 10_000),
    "tokens that are none": request({"tokens": [-1, 2**70]}, "/detokenize"),
    "1,025 prompts": request({"prompt": [[1]] * 1025}, "/v1/completions"),
    "an input that is none": request({"input": {"a": 1}}, "/v1/responses"),
    "a former response that is none": request(
        {"input": "x", "previous_response_id": "../../etc/passwd"}, "/v1/responses"),
    "no token limit for Anthropic": request({"messages": [], "max_tokens": 0}, "/v1/messages"),
}  # fmt: skip

METHODS = {
    f"{method} {path}": request(b"{}", path, method=method)
    for path in (CHAT, "/v1/models", "/health", "/metrics")
    for method in ("PUT", "PATCH", "TRACE", "OPTIONS", "DELETE", "PROPFIND", "X" * 300)
}

CASES = {**MALFORMED, **BODIES, **METHODS}
