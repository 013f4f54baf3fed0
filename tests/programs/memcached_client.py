"""A memcached client on asyncio: many connections that set values of many sizes and get them back.

usage: memcached_client.py HOST PORT
"""

import asyncio
import hashlib
import random
import sys
import time

CONNECTIONS = 16
VALUES = 200


async def take_value(reader):
    header = (await reader.readuntil(b"\r\n")).split()
    assert header[0] == b"VALUE", header
    return (await reader.readexactly(int(header[3]) + 2))[:-2]


async def converse(host, port, number):
    reader, writer = await asyncio.open_connection(host, port)
    numbers = random.Random(number)
    values = {}
    for round in range(VALUES):
        key = b"%d-%d" % (number, round)
        size = 900_000 if round % 100 == 99 else int(2 ** numbers.uniform(0, 15))
        values[key] = numbers.randbytes(size)
        writer.write(b"set %s 0 0 %d\r\n%s\r\n" % (key, size, values[key]))
        await writer.drain()
        assert await reader.readuntil(b"\r\n") == b"STORED\r\n"
        writer.write(b"get %s\r\n" % key)
        assert await take_value(reader) == values[key], f"value {key} differs"
        assert await reader.readuntil(b"\r\n") == b"END\r\n"
    # All of them in one request.
    writer.write(b"get %s\r\n" % b" ".join(values))
    digest = hashlib.sha256()
    for value in values.values():
        got = await take_value(reader)
        assert got == value
        digest.update(got)
    assert await reader.readuntil(b"\r\n") == b"END\r\n"
    writer.close()
    return digest.hexdigest()


async def main(host, port):
    start = time.monotonic()
    digests = await asyncio.gather(*(converse(host, port, number) for number in range(CONNECTIONS)))
    print("rate conversations per minute", 60 * CONNECTIONS / (time.monotonic() - start))
    print(*digests)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
