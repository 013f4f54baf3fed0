"""A client that asks a Redis and an nginx some times, says `holding` and keeps its connections until its input ends."""

import asyncio
import socket
import sys

REQUESTS = [
    (6379, b"PING\r\n", b"+PONG\r\n"),
    (8080, b"GET /none HTTP/1.1\r\nHost: here\r\n\r\n", None),
]
ROUNDS = 50


def answer_is_whole(answer, expected):
    if expected is not None:
        return answer == expected
    head, end, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and len(body) == int(lengths[0].split(b":")[1])


async def converse(port, request, expected):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(ROUNDS):
        writer.write(request)
        answer = b""
        while not answer_is_whole(answer, expected):
            answer += await reader.read(65536)
    return writer


async def keep():
    kept = [await converse(*request) for request in REQUESTS]
    print("holding", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for writer in kept:
        writer.close()


def keep_blocking():
    kept = []
    for port, request, expected in REQUESTS:
        connection = socket.create_connection(("127.0.0.1", port))
        for _ in range(ROUNDS):
            connection.sendall(request)
            answer = b""
            while not answer_is_whole(answer, expected):
                answer += connection.recv(65536)
        kept.append(connection)
    print("holding", flush=True)
    sys.stdin.read()


if sys.argv[1] == "blocking":
    keep_blocking()
else:
    asyncio.run(keep())
