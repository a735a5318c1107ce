#!/usr/bin/python3
"""A client of RabbitMQ for the tests: pika, told what to do in JSON.

client.py PORT USER PASSWORD STEPS: each of STEPS is the name of a method of pika's
channel and its arguments by name, or

    ["take", {"queue": name}]     take the messages that are there
    ["ids", {"queue": name}]      the same, but show nothing of them but their ids
    ["count", {"queue": name}]    how many are there

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


def take_all(channel, queue, look):
    """Take what is there now, and have "look" made of each."""
    wanted = count(channel, queue)
    messages = []
    if wanted == 0:
        return messages
    channel.basic_qos(prefetch_count=1000)
    for method, properties, body in channel.consume(queue):
        messages.append(look(method, properties, body))
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
        return take_all(channel, look=as_json, **arguments)
    if name == "ids":
        return take_all(channel, look=lambda _, properties, body: properties.message_id, **arguments)
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
