"""What the tests ask of a NATS server: streams, and the messages in them.

    client.py URL create STREAM SUBJECT [NAME=VALUE ...]
    client.py URL delete STREAM
    client.py URL read STREAM
    client.py URL respond SUBJECT [WORDS]
    client.py URL keys

URL may have a user and a password; the environment's NATS_SEED is a user's seed, and
NATS_CA, NATS_CERT and NATS_KEY name files for TLS.  "read" prints all messages that a stream has, in
their order, a JSON object a line: seq, subject, headers, and data in hexadecimal.
"respond" says on a line when it listens, and until it is killed answers what comes
with these words, which are no acknowledgement; without words, with silence.  "keys" prints a new user's seed and its
public key.
"""

import asyncio
import json
import os
import ssl
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig


async def connected(url):
    options = {'servers': [url], 'allow_reconnect': False, 'connect_timeout': 10}
    if 'NATS_SEED' in os.environ:
        options['nkeys_seed_str'] = os.environ['NATS_SEED']
    if 'NATS_CA' in os.environ:
        options['tls'] = ssl.create_default_context(cafile=os.environ['NATS_CA'])
        if 'NATS_CERT' in os.environ:
            options['tls'].load_cert_chain(os.environ['NATS_CERT'], os.environ['NATS_KEY'])
    return await nats.connect(**options)


async def create(js, _, stream, subject, *config):
    more = {name: json.loads(value) for name, value in
            (pair.split('=', 1) for pair in config)}
    await js.add_stream(StreamConfig(name=stream, subjects=[subject], **more))


async def delete(js, _, stream):
    await js.delete_stream(stream)


async def read(js, _, stream):
    info = await js.stream_info(stream)
    left = info.state.messages
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL,
                            ack_policy=AckPolicy.NONE)
    subscription = await js.pull_subscribe('>', stream=stream, config=config)
    while left > 0:
        for message in await subscription.fetch(min(left, 1000), timeout=30):
            left -= 1
            print(json.dumps({
                'seq': message.metadata.sequence.stream,
                'subject': message.subject,
                'headers': message.headers or {},
                'data': message.data.hex()}))


async def respond(_, client, subject, words=None):
    async def answer(message):
        if words is not None:
            await client.publish(message.reply, words.encode())
    await client.subscribe(subject, cb=answer)
    await client.flush()
    print('listening', flush=True)
    await asyncio.Event().wait()


def keys():
    import nkeys
    pair = nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    print(pair.seed.decode(), pair.public_key.decode())


async def main(url, command, *arguments):
    client = await connected(url)
    await globals()[command](client.jetstream(), client, *arguments)
    await client.close()


if __name__ == '__main__':
    if sys.argv[2] == 'keys':
        keys()
    else:
        asyncio.run(main(*sys.argv[1:]))
