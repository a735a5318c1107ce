#!/usr/bin/python3
"""A client of RabbitMQ for the tests: pika, told what to do in JSON.

client.py PORT USER PASSWORD STEPS: each of STEPS is the name of a method of pika's
channel and its arguments by name, or

    ["take", {"queue": name, "max": number}]   take messages until there are no more,
                                               or so many; default: all
    ["count", {"queue": name}]                 how many are ready

Prints what the last step has to say, as JSON.  A body is in base64.
"""

import base64
import json
import sys

import pika

PROPERTIES = ("content_type", "delivery_mode", "message_id", "timestamp", "type")


def as_json(method, properties, body):
    message = {name: getattr(properties, name) for name in PROPERTIES}
    message["exchange"] = method.exchange
    message["routing_key"] = method.routing_key
    message["redelivered"] = method.redelivered
    message["headers"] = properties.headers
    message["body"] = base64.b64encode(body).decode()
    return message


def take(channel, queue, max=None):
    messages = []
    while max is None or len(messages) < max:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
        if method is None:
            break
        messages.append(as_json(method, properties, body))
    return messages


def take_all(channel, queue):
    """The same by a consumer, which is faster, for what is there now."""
    wanted = count(channel, queue)
    messages = []
    if wanted == 0:
        return messages
    channel.basic_qos(prefetch_count=1000)
    for method, properties, body in channel.consume(queue):
        messages.append(as_json(method, properties, body))
        if len(messages) % 500 == 0 or len(messages) == wanted:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if len(messages) == wanted:
            break
    channel.cancel()
    return messages


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def run(channel, name, arguments):
    if name == "take":
        return take(channel, **arguments) if "max" in arguments else take_all(channel, **arguments)
    if name == "count":
        return count(channel, **arguments)
    getattr(channel, name)(**arguments)
    return None


def main():
    port, user, password, steps = sys.argv[1:]
    connection = pika.BlockingConnection(
        pika.ConnectionParameters(
            host="127.0.0.1",
            port=int(port),
            credentials=pika.PlainCredentials(user, password),
        )
    )
    channel = connection.channel()
    result = None
    for name, arguments in json.loads(steps):
        result = run(channel, name, arguments)
    connection.close()
    json.dump(result, sys.stdout)


main()
