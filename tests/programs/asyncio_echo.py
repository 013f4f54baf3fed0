"""An echo server and its clients on asyncio streams.

usage: asyncio_echo.py serve PORT
       asyncio_echo.py converse PORT HOST
"""

import asyncio
import hashlib
import random
import sys
import time

CONNECTIONS = 20
MESSAGES = 400
STREAM = 20_000_000


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, ["127.0.0.1", "::1"], port)
    await server.serve_forever()


async def converse(host, port, number):
    """Messages one by one, and then a stream that is written and read at the same time, up to its end."""
    reader, writer = await asyncio.open_connection(host, port)
    numbers = random.Random(number)
    digest = hashlib.sha256()
    for _ in range(MESSAGES):
        message = numbers.randbytes(int(2 ** numbers.uniform(0, 16)))
        writer.write(message)
        echoed = await reader.readexactly(len(message))
        assert echoed == message
        digest.update(echoed)

    async def stream():
        left = STREAM // CONNECTIONS
        while left:
            size = min(left, numbers.randint(1, 200_000))
            writer.write(numbers.randbytes(size))
            await writer.drain()
            left -= size
        writer.write_eof()

    task = asyncio.create_task(stream())
    length = 0
    while data := await reader.read(1 << 16):
        digest.update(data)
        length += len(data)
    await task
    assert length == STREAM // CONNECTIONS, length
    writer.close()
    return digest.hexdigest()


async def main(host, port):
    start = time.monotonic()
    digests = await asyncio.gather(*(converse(host, port, number) for number in range(CONNECTIONS)))
    print("rate conversations per minute", 60 * CONNECTIONS / (time.monotonic() - start))
    print(*digests)


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2])))
else:
    asyncio.run(main(sys.argv[3], int(sys.argv[2])))
