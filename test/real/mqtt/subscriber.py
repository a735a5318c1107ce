"""A subscriber of MQTT 5, the usual client in Python, for the tests.

    subscriber.py PORT FILE TOPIC ...

Its session outlives its connection, and it connects again whenever that breaks.  It
appends to FILE, a JSON object a line: {"subscribed": true} once the broker has taken
its subscriptions, and every message: topic, qos, retain, content_type, properties (a
list of pairs) and payload in hexadecimal.
"""

import json
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, path, *topics = sys.argv[1:]
file = open(path, 'a', buffering=1)


def on_connect(client, userdata, flags, reason, properties):
    client.subscribe([(topic, mqtt.SubscribeOptions(qos=1)) for topic in topics])


def on_subscribe(client, userdata, mid, reasons, properties):
    print(json.dumps({'subscribed': True}), file=file)


def on_message(client, userdata, message):
    properties = message.properties
    print(json.dumps({
        'topic': message.topic,
        'qos': message.qos,
        'retain': bool(message.retain),
        'content_type': getattr(properties, 'ContentType', None),
        'properties': getattr(properties, 'UserProperty', []),
        'payload': message.payload.hex()}), file=file)


client = mqtt.Client('test_subscriber', protocol=mqtt.MQTTv5)
client.on_connect = on_connect
client.on_subscribe = on_subscribe
client.on_message = on_message
client.username_pw_set('reader', 'secret')
client.reconnect_delay_set(1, 1)
session = Properties(PacketTypes.CONNECT)
session.SessionExpiryInterval = 3600
client.connect('127.0.0.1', int(port), clean_start=False, properties=session)
client.loop_forever(retry_first_connection=True)
