"""What the tests ask of a Kafka broker: topics, and the records in them.

    client.py SERVERS create TOPIC PARTITIONS [NAME=VALUE ...]
    client.py SERVERS delete TOPIC
    client.py SERVERS read TOPIC
    client.py SERVERS ids TOPIC

"ids" prints the header ce_id of all records that are there, a line each.  "read"
prints the records, those of a partition in their order, a JSON object a line:
partition, offset, timestamp, key and value in hexadecimal or null, and headers as
a list of pairs of a name and a value in hexadecimal.
"""

import json
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

TIMEOUT = 30


def hexed(octets):
    return None if octets is None else octets.hex()


def is_there(admin, topic):
    found = admin.list_topics(topic, TIMEOUT).topics[topic]
    return found.error is None and all(
        partition.leader >= 0 for partition in found.partitions.values())


def await_topic(admin, topic, there):
    """What the controller has done the broker hears of a moment later."""
    deadline = time.monotonic() + TIMEOUT
    while is_there(admin, topic) != there:
        if time.monotonic() > deadline:
            sys.exit('topic %s is %s' % (topic, 'not there' if there else 'there'))
        time.sleep(0.02)


def create(servers, topic, partitions, *config):
    new = NewTopic(topic, int(partitions), 1,
                   config=dict(pair.split('=', 1) for pair in config))
    admin = AdminClient({'bootstrap.servers': servers})
    admin.create_topics([new])[topic].result(TIMEOUT)
    await_topic(admin, topic, True)


def delete(servers, topic):
    admin = AdminClient({'bootstrap.servers': servers})
    admin.delete_topics([topic])[topic].result(TIMEOUT)
    await_topic(admin, topic, False)


def records_of(consumer, topic, partition):
    """The records that are in a partition now."""
    first, end = consumer.get_watermark_offsets(
        TopicPartition(topic, partition), TIMEOUT)
    if first == end:
        return
    consumer.assign([TopicPartition(topic, partition, first)])
    while True:
        record = consumer.poll(TIMEOUT)
        if record is None:
            sys.exit('no record from %s %d in time' % (topic, partition))
        if record.error():
            # the end, where what comes before it is no record
            if record.error().name() == '_PARTITION_EOF':
                return
            raise KafkaException(record.error())
        yield record
        if record.offset() + 1 >= end:
            return


def records(servers, topic):
    """The records that are in a topic now."""
    consumer = Consumer({
        'bootstrap.servers': servers,
        'group.id': 'test',
        'enable.auto.commit': False,
        'enable.partition.eof': True,
        'fetch.message.max.bytes': 64 * 1024 * 1024})
    metadata = consumer.list_topics(topic, TIMEOUT).topics[topic]
    if metadata.error:
        raise KafkaException(metadata.error)
    for partition in sorted(metadata.partitions):
        yield from records_of(consumer, topic, partition)
    consumer.close()


def read(servers, topic):
    for record in records(servers, topic):
        print(json.dumps({
            'partition': record.partition(),
            'offset': record.offset(),
            'timestamp': record.timestamp()[1],
            'key': hexed(record.key()),
            'value': hexed(record.value()),
            'headers': [[name, hexed(value)] for name, value in record.headers() or []]}))


def ids(servers, topic):
    for record in records(servers, topic):
        print(dict(record.headers())['ce_id'].decode())


COMMANDS = {'create': create, 'delete': delete, 'read': read, 'ids': ids}

if __name__ == '__main__':
    COMMANDS[sys.argv[2]](sys.argv[1], *sys.argv[3:])
