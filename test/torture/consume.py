"""consume.py KIND LOG PLACE ARGUMENT ...: read all that is published to a broker, for the torture.

Each event, an envelope in JSON, becomes a line of LOG as receiver.py writes them.  Its time is when the broker stored it,
if that says so: after a fault a consumer may read it a second later.  Whatever happens to the broker, the consumer goes
on where it was: what was read twice because of that comes when the broker was down, which explains it."""

import asyncio
import base64
import json
import sys
import time

RETRY = 0.1                 # seconds between two looks for a broker that is not there


class Log:
    def __init__(self, path):
        self.file = open(path, 'a', encoding='ascii', buffering=1)

    def write(self, body, stored_at=None):
        envelope = json.loads(body)
        self.file.write(json.dumps({
            'time': stored_at or time.time(), 'accepted': True, 'fault': None, 'entry_index': None, 'id': envelope['id'],
            'topic': envelope['topic'], 'key': envelope.get('partitionkey'),
            'headers': {'content-type': 'application/cloudevents+json'}, 'body_is_base64': True,
            'body': base64.b64encode(body).decode('ascii')}) + '\n')


def rabbitmq(log, place, port, user, password):
    import pika
    from pika.exceptions import AMQPError
    parameters = pika.ConnectionParameters('127.0.0.1', int(port), heartbeat=0, socket_timeout=5,
                                           credentials=pika.PlainCredentials(user, password))
    while True:
        try:
            channel = pika.BlockingConnection(parameters).channel()
            channel.basic_qos(prefetch_count=100)
            for method, _, body in channel.consume(place):
                log.write(body)
                channel.basic_ack(method.delivery_tag)
        except (AMQPError, OSError):
            time.sleep(RETRY)


def kafka(log, place, servers):
    from confluent_kafka import Consumer, TopicPartition
    consumer = Consumer({'bootstrap.servers': servers, 'group.id': 'torture', 'enable.auto.commit': False,
                         'reconnect.backoff.max.ms': 500})
    consumer.assign([TopicPartition(place, 0, 0)])
    while True:
        message = consumer.poll(1)
        if message is not None and message.error() is None:
            log.write(message.value(), message.timestamp()[1] / 1000)


async def read_nats(log, seen, url, stream):
    import nats
    from nats.errors import TimeoutError as NothingThere
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    client = await nats.connect(url, allow_reconnect=False, connect_timeout=5)
    try:
        subscription = await client.jetstream().pull_subscribe('', stream=stream, config=ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=seen[0] + 1))
        while True:
            try:
                for message in await subscription.fetch(100, timeout=1):
                    seen[0] = message.metadata.sequence.stream
                    log.write(message.data, message.metadata.timestamp.timestamp())
            except NothingThere:
                await client.flush(timeout=5)
    finally:
        await client.close()


def nats(log, place, url, stream):
    seen = [0]
    while True:
        try:
            asyncio.run(read_nats(log, seen, url, stream))
        except Exception:               # whatever a client says of a broker that dies
            time.sleep(RETRY)


def redis(log, place, port):
    import redis as library
    client = library.Redis(port=int(port), socket_timeout=10)
    last = '0'
    while True:
        try:
            for _, entries in client.xread({place: last}, count=100, block=1000):
                for last, fields in entries:
                    log.write(fields[b'data'], int(last.split(b'-')[0]) / 1000)
        except library.RedisError:
            time.sleep(RETRY)


def mqtt(log, place, port):
    import paho.mqtt.client as library
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    client = library.Client('torture', protocol=library.MQTTv5)
    client.username_pw_set('reader', 'secret')
    client.on_connect = lambda *_: client.subscribe(place, qos=1)
    client.on_message = lambda _, __, message: log.write(message.payload)
    client.reconnect_delay_set(1, 1)
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    client.connect('127.0.0.1', int(port), clean_start=False, properties=session)
    client.loop_forever(retry_first_connection=True)


if __name__ == '__main__':
    kind, path, *arguments = sys.argv[1:]
    globals()[kind](Log(path), *arguments)
