"""The CloudEvents envelope that daprd wraps events into, which is what subscribers see.

A body that says that it is a CloudEvent is adopted and completed; any other becomes the data of an
envelope that is made for it, of which the request's metadata may choose some attributes.
"""

import base64
import datetime
import uuid

import golang
from http_message import media_type
from publication import Event, caseless

DEFAULT_TYPE = 'com.dapr.event.sent'


class HandlerPanic(Exception):
    """daprd's handler would panic: net/http closes the connection without an answer."""


class Enveloper:
    def __init__(self, app_id, profile, components):
        self.app_id = app_id
        self.overridable = {'id', 'source', 'type', 'traceid', 'traceparent', 'tracestate'}
        if profile.subject:
            self.overridable.add('subject')
        self.components = components

    def wrap(self, route, metadata, content_type, body, trace):
        """The Event for a body; ValueError if it should be a CloudEvent and is not.  trace: the
        request's (traceparent, tracestate)."""
        if media_type(content_type) == 'application/cloudevents+json':
            envelope = self._adopt(route, body, trace)
        else:
            envelope = self._create(route, metadata, content_type, body, trace)
        ttl = _parse_ttl(metadata)
        if ttl is not None and 'MESSAGE_TTL' not in self.components[route.pubsub].get('capabilities', ()):
            expiration = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=ttl)
            envelope['expiration'] = golang.rfc3339(expiration)
        return Event(body, envelope, metadata, golang.marshal(envelope))

    def _create(self, route, metadata, content_type, body, trace):
        override = {name.lower()[len('cloudevent.'):]: value for name, value in metadata.items()
                    if name.lower().startswith('cloudevent.')}
        override = {name: value for name, value in override.items() if value and name in self.overridable}
        traceparent = override.get('traceparent') or override.get('traceid') or trace[0]
        envelope = {
            'datacontenttype': content_type or 'text/plain',
            'id': override.get('id') or str(uuid.uuid4()),
            'pubsubname': route.pubsub,
            'source': override.get('source') or self.app_id or 'Dapr',
            'specversion': '1.0',
            'time': golang.rfc3339(datetime.datetime.now().astimezone()),
            'topic': route.topic,
            'traceid': traceparent,
            'traceparent': traceparent,
            'tracestate': override.get('tracestate') or trace[1],
            'type': override.get('type') or DEFAULT_TYPE,
        }
        if 'subject' in override:
            envelope['subject'] = override['subject']
        self._add_data(envelope, media_type(content_type), body)
        return envelope

    @staticmethod
    def _add_data(envelope, kind, body):
        if kind in ('application/octet-stream', 'application/cloudevents+protobuf'):
            envelope['data_base64'] = base64.b64encode(body).decode()
            return
        if kind == 'application/json':
            try:
                envelope['data'] = golang.unmarshal(body)
                return
            except (ValueError, RecursionError):
                pass            # daprd sends what is no JSON as a string
        envelope['data'] = golang.text(body)

    @staticmethod
    def _adopt(route, body, trace):
        envelope = golang.unmarshal(body)
        if envelope is None:
            raise HandlerPanic
        if not isinstance(envelope, dict):
            kind = {list: 'array', str: 'string', bool: 'bool'}.get(type(envelope), 'number')
            raise ValueError(f'json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}')
        envelope.setdefault('time', golang.rfc3339(datetime.datetime.now().astimezone()))
        if 'traceid' not in envelope:
            envelope['traceid'] = envelope['traceparent'] = trace[0]
        envelope.setdefault('tracestate', trace[1])
        envelope['topic'] = route.topic
        envelope['pubsubname'] = route.pubsub
        for name, default in (('source', 'Dapr'), ('type', DEFAULT_TYPE), ('specversion', '1.0')):
            if envelope.get(name) is None:
                envelope[name] = default
        return envelope


def _parse_ttl(metadata):
    """Seconds to live, or None: Go duration or whole seconds; what is malformed is ignored."""
    value = caseless(metadata, 'ttlinseconds') or caseless(metadata, 'ttl') or ''
    if value.isdigit():
        seconds = int(value)
    else:
        seconds = golang.parse_duration(value)
    return seconds if seconds is not None and seconds >= 0 else None
