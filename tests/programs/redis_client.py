"""A Redis client on asyncio: values of many sizes, and channels with many subscribers.

usage: redis_client.py values|channels HOST PORT
"""

import asyncio
import hashlib
import random
import sys


class Client:
    @classmethod
    async def connect(cls, host, port):
        client = cls()
        client.reader, client.writer = await asyncio.open_connection(host, port)
        return client

    def send(self, *parts):
        parts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        command = [b"*%d\r\n" % len(parts)]
        command += [b"$%d\r\n%s\r\n" % (len(part), part) for part in parts]
        self.writer.write(b"".join(command))

    async def reply(self):
        line = await self.reader.readuntil(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b"$":
            return (await self.reader.readexactly(int(rest) + 2))[:-2]
        if kind == b"*":
            return [await self.reply() for _ in range(int(rest))]
        return rest

    async def ask(self, *parts):
        self.send(*parts)
        await self.writer.drain()
        return await self.reply()


async def values(host, port):
    client = await Client.connect(host, port)
    numbers = random.Random(1)
    for round in range(300):
        size = 5_000_000 if round % 100 == 99 else int(2 ** numbers.uniform(0, 17))
        value = numbers.randbytes(size)
        assert await client.ask("SET", f"value:{round}", value) == b"OK"
        assert await client.ask("GET", f"value:{round}") == value, f"value {round} differs"
    # All of them again, requested at once: the answers exceed any buffers.
    for round in range(300):
        client.send("GET", f"value:{round}")
    digest = hashlib.sha256()
    for round in range(300):
        digest.update(await client.reply())
    print("values", digest.hexdigest())


async def channels(host, port):
    """Eight subscribers to each channel; each must get every message, in the order they were published in."""
    subscribers, messages = 8, 1000
    for channel, sizes in (("small", (1, 200)), ("mixed", (1, 20_000)), ("large", (60_000, 70_000))):

        async def subscribe(client):
            digest = hashlib.sha256()
            for _ in range(messages):
                kind, name, message = await client.reply()
                assert (kind, name) == (b"message", channel.encode())
                digest.update(b"%d %s" % (len(message), message))
            return digest.hexdigest()

        clients = [await Client.connect(host, port) for _ in range(subscribers)]
        for client in clients:
            await client.ask("SUBSCRIBE", channel)
        tasks = [asyncio.create_task(subscribe(client)) for client in clients]
        publisher = await Client.connect(host, port)
        numbers = random.Random(2)
        for _ in range(messages):
            message = numbers.randbytes(numbers.randint(*sizes))
            assert int(await publisher.ask("PUBLISH", channel, message)) == subscribers
        digests = set(await asyncio.gather(*tasks))
        print(channel, *digests)


WHAT = {"values": values, "channels": channels}
asyncio.run(WHAT[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
