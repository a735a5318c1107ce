#!/usr/bin/python3
"""The receiver that the tests relay to: a stand-in for daprd, or a plain HTTP endpoint.

One process, one event loop, no thread.  A request passes through these stages:

    Connection   bytes -> Request; keep-alive, chunked bodies, 100-continue
    Endpoint     route(): may the request come in?  prepare(): Request -> Publication, that is the
                 events it carries or the refusal it earns.  Daprd and PlainEndpoint are the two.
    FaultScript  picks at most one rule for the request; without one the answer is given at once
    Exchange     records in the Log what was taken, and only then answers

What is recorded as accepted is what a broker would hold, whatever became of the answer: that is what
the tests compare with the committed events.  An entry reaches the log file before the first byte of
its answer leaves, so that not even a SIGKILL makes the receiver forget what it has acknowledged; a
receiver started again with the same file knows its old entries.

Daprd follows what is known of daprd's source (path cleaning, order of the checks, error bodies,
number handling), not what would be sensible.  Brokers, subscribers, gRPC and resiliency policies are
not modelled: script their errors with fault rules.

The control API is served under /__ctl/ on the receiver's own port and on a port of its own
(--ctl-port), which stays open when the first is told to refuse connections:

    GET  /__ctl/log?since=SEQ[&accepted=0|1][&fields=a,b]   entries with a higher seq
    GET  /__ctl/stats          counters
    GET  /__ctl/faults         the rules, with how often each matched ("seen") and struck ("fired")
    POST /__ctl/faults         a list of rules (see Rule) that replaces the present ones and
                               releases the requests that hang
    POST /__ctl/state          {"listening", "ready", "outbound", "draining", "components"}: any of them
    POST /__ctl/reset          forget log and rules
"""

import argparse
import asyncio
import base64
import binascii
import collections
import datetime
import decimal
import http
import json
import os
import posixpath
import random
import re
import signal
import socket
import ssl
import struct
import sys
import time
import traceback
import urllib.parse
import uuid

CONTROL_PREFIX = '/__ctl/'
PARENT_CHECK_INTERVAL = 0.25
LINGER_SECONDS = 0.5

# --------------------------------------------------------------------------------------------------
# JSON as Go reads and writes it
# --------------------------------------------------------------------------------------------------


class Literal:
    """A number of which the spelling matters."""

    __slots__ = ('text',)

    def __init__(self, text):
        self.text = text


def _precise_int(text):
    # int() would lose the sign of -0, and refuses thousands of digits.
    return int(text) if len(text) < 1000 and text != '-0' else Literal(text)


def go_float(value):
    """A float64 as Go's encoding/json spells it."""
    if value in (float('inf'), float('-inf')):
        raise ValueError('json: cannot unmarshal number into Go value of type float64')
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        return repr(value).replace('e-0', 'e-')
    text = format(decimal.Decimal(repr(value)), 'f')
    return text[:-2] if text.endswith('.0') else text


def _float64(text):
    if len(text) < 16 and text.isdigit():       # exact; the usual case, spared the detour
        return int(text)
    return Literal(go_float(float(text)))


def _no_constant(text):
    raise ValueError(f"invalid character '{text[0]}' looking for beginning of value")


# Numbers keep their spelling (UseNumber), or go through float64 (plain encoding/json).
PRECISE = json.JSONDecoder(parse_int=_precise_int, parse_float=Literal, parse_constant=_no_constant)
FLOAT64 = json.JSONDecoder(parse_int=_float64, parse_float=_float64, parse_constant=_no_constant)


def go_unmarshal(body, decoder=PRECISE):
    """The first JSON value of body; like Go's Decoder, what follows it is not looked at."""
    text = body.decode('utf-8', 'replace')
    start = len(text) - len(text.lstrip(' \t\r\n'))
    if start == len(text):
        raise ValueError('EOF')
    return decoder.raw_decode(text, start)[0]


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(',', ':')).encode
_ENCODE_SORTED = json.JSONEncoder(ensure_ascii=False, separators=(',', ':'), sort_keys=True).encode
_HTML_UNSAFE = re.compile('[<>&\u2028\u2029\ud800-\udfff]')


def _html_escape(match):
    char = match.group()
    return '\ufffd' if '\ud800' <= char <= '\udfff' else f'\\u{ord(char):04x}'


def _encode_literals(value):
    """What _ENCODE_SORTED does, for values that hold a Literal."""
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, dict):
        return '{' + ','.join(f'{_ENCODE(k)}:{_encode_literals(v)}' for k, v in sorted(value.items())) + '}'
    if isinstance(value, list):
        return '[' + ','.join(map(_encode_literals, value)) + ']'
    return _ENCODE(value)


def go_marshal(value, sort=True):
    """value as text: compact, keys sorted as those of a Go map, safe for HTML."""
    if not sort:
        text = _ENCODE(value)
    else:
        try:
            text = _ENCODE_SORTED(value)
        except TypeError:
            text = _encode_literals(value)
    return _HTML_UNSAFE.sub(_html_escape, text)


# --------------------------------------------------------------------------------------------------
# HTTP
# --------------------------------------------------------------------------------------------------


class BadRequest(Exception):
    """Not HTTP that we would answer on a connection that stays open."""

    def __init__(self, status, text=None):
        super().__init__(text)
        self.response = text_response(status, text or f'{status} {http.HTTPStatus(status).phrase}', close=True)


class Request:
    __slots__ = ('method', 'target', 'path', 'query', 'version', 'raw_headers', 'headers', 'body',
                 'too_large', 'received', 'conn', 'nth', 'route', 'refusal', 'rule')

    def __init__(self, head, conn, nth):
        lines = head.decode('latin-1').split('\r\n')
        words = lines[0].split(' ')
        if len(words) != 3 or not words[1].startswith('/') or words[2] not in ('HTTP/1.1', 'HTTP/1.0'):
            raise BadRequest(400)
        self.method, self.target, self.version = words
        self.path, _, self.query = self.target.partition('?')
        self.raw_headers = [_split_header(line) for line in lines[1:]]
        self.headers = {}
        for name, value in self.raw_headers:
            self.headers.setdefault(name.lower(), value)
        self.body = b''
        self.too_large = False
        self.received = time.time()
        self.conn = conn
        self.nth = nth
        self.route = None       # what the endpoint's route() made of the path
        self.refusal = None     # the Response that the head alone has earned
        self.rule = None        # the fault rule that the head alone has met

    def header(self, name):
        return self.headers.get(name, '')

    @property
    def is_control(self):
        return self.path.startswith(CONTROL_PREFIX)

    @property
    def keeps_alive(self):
        wish = self.header('connection').lower()
        return wish == 'keep-alive' if self.version == 'HTTP/1.0' else wish != 'close'


def _split_header(line):
    name, colon, value = line.partition(':')
    if not colon or not name or name != name.strip():
        raise BadRequest(400, '400 Bad Request: malformed header')
    return [name, value.strip(' \t')]


class Response:
    __slots__ = ('status', 'headers', 'body', 'close', 'silent_close')

    def __init__(self, status, body=b'', headers=(), close=False):
        self.status = status
        self.body = body
        self.headers = list(headers)
        self.close = close
        self.silent_close = False       # close without a word in the headers

    def encode(self):
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = 'Unknown'
        lines = [f'HTTP/1.1 {self.status} {phrase}']
        lines += [f'{name}: {value}' for name, value in self.headers]
        if self.body or not (self.status == 204 or self.status == 304):
            lines.append(f'Content-Length: {len(self.body)}')
        if self.close:
            lines.append('Connection: close')
        return '\r\n'.join(lines + ['', '']).encode('utf-8') + self.body


def text_response(status, text, close=False, headers=()):
    headers = [('Content-Type', 'text/plain; charset=utf-8'), *headers]
    return Response(status, text.encode(), headers, close)


def json_response(status, text, headers=()):
    return Response(status, text.encode(), [('Content-Type', 'application/json'), *headers])


class LengthBody:
    """A body of which the length is known."""

    def __init__(self, length):
        self.length = length

    def read(self, buffer):
        """Take the body out of buffer; None while it is not complete."""
        if len(buffer) < self.length:
            return None
        body = bytes(buffer[:self.length])
        del buffer[:self.length]
        return body


class BodyTooLarge(Exception):
    pass


class ChunkedBody:
    """A body in chunks; read() is called again with every new piece of input."""

    def __init__(self, limit):
        self.limit = limit
        self.body = bytearray()
        self.wanted = None      # bytes of the present chunk with its CRLF; None before its size line
        self.last = False

    def read(self, buffer):
        while True:
            if self.wanted is not None:
                if len(buffer) < self.wanted:
                    return None
                self._take_chunk(buffer)
            line = _take_line(buffer)
            if line is None:
                return None
            if self.last:
                if not line:    # the end of the trailers, which nobody needs
                    return bytes(self.body)
            else:
                self._begin_chunk(line)

    def _begin_chunk(self, line):
        try:
            size = int(line.partition(b';')[0], 16)
        except ValueError:
            raise BadRequest(400, '400 Bad Request: bad chunk size') from None
        if len(self.body) + size > self.limit:
            raise BodyTooLarge
        if size == 0:
            self.last = True
        else:
            self.wanted = size + 2

    def _take_chunk(self, buffer):
        self.body += buffer[:self.wanted - 2]
        del buffer[:self.wanted]
        self.wanted = None


def _take_line(buffer):
    end = buffer.find(b'\r\n')
    if end < 0:
        return None
    line = bytes(buffer[:end])
    del buffer[:end + 2]
    return line


class Connection(asyncio.Protocol):
    """One client; its requests are answered one after the other.

    Either data_received() works on the input at once, or a task has the connection ("busy": control
    requests and those that a fault rule has met) and the input waits until the task is done.
    """

    def __init__(self, server, control_only=False):
        self.server = server
        self.control_only = control_only
        self.buffer = bytearray()
        self.request = None
        self.body = None        # reads the body of self.request
        self.busy = False
        self.lingering = False
        self.nth = 0
        self.id = 0

    # --- callbacks of the event loop

    def connection_made(self, transport):
        self.transport = transport
        self.closed = self.server.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self.id = self.server.connection_opened(self)

    def connection_lost(self, exc):
        self.closed.set_result(None)
        self.writable.set()
        self._forget_request()
        self.server.connections.discard(self)

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def data_received(self, data):
        if self.lingering:
            return
        self.buffer += data
        self._advance()

    # --- reading

    def _advance(self):
        """Work on the input as far as it goes."""
        try:
            while not self.busy and not self.is_closing():
                if self.request is None and not self._read_head():
                    return
                if not self.busy and not self._read_body():
                    return
        except BadRequest as error:
            self.respond(error.response)

    def _read_head(self):
        end = self.buffer.find(b'\r\n\r\n')
        size = len(self.buffer) if end < 0 else end + 4
        if size > self.server.max_header:
            raise BadRequest(431)
        if end < 0:
            return False
        head = bytes(self.buffer[:end])
        del self.buffer[:size]
        self.nth += 1
        self.request = Request(head, self.id, self.nth)
        self.server.request_began(self.request)
        self._begin_body()
        return True

    def _begin_body(self):
        """Decide about the body from the head alone."""
        request = self.request
        if not request.is_control:
            request.refusal = self.server.endpoint.route(request)
            request.rule = self.server.faults.choose_by_head(request)
        self._choose_body_reader(request)
        if request.rule is not None:
            self.spawn(self._begin_body_later(request.rule))
        else:
            self._invite_body()

    def _choose_body_reader(self, request):
        limit = self.server.max_body
        if 'chunked' in request.header('transfer-encoding').lower():
            self.body = ChunkedBody(limit)
            return
        length = request.header('content-length') or '0'
        if not length.isdigit():
            raise BadRequest(400, '400 Bad Request: bad Content-Length')
        request.too_large = int(length) > limit
        self.body = LengthBody(int(length))

    async def _begin_body_later(self, rule):
        self.transport.pause_reading()
        await asyncio.sleep(rule.delay_read)
        if not self.is_closing():
            self.transport.resume_reading()
            if rule.action != 'no_continue':
                self._invite_body()

    def _invite_body(self):
        """Tell a client that has asked to go on, unless it is refused: as a Go server does when the
        handler begins to read."""
        request = self.request
        if request.header('expect').lower() != '100-continue':
            return
        if request.refusal is not None or request.too_large:
            self.body = LengthBody(0)   # it will never be sent
            if request.refusal is not None:
                request.refusal.close = True
        elif not self.buffer:
            self.write(b'HTTP/1.1 100 Continue\r\n\r\n')

    def _read_body(self):
        request = self.request
        if not request.too_large:
            try:
                body = self.body.read(self.buffer)
            except BodyTooLarge:
                request.too_large = True
                body = b''
            if body is None:
                return False
            request.body = body
        self._dispatch(request)
        return True

    def _dispatch(self, request):
        if request.is_control:
            self.spawn(self._control(request))
            return
        if self.control_only:
            self.respond(text_response(404, 'control port\n'))
            return
        exchange = Exchange(self.server, self, request)
        if exchange.rule is None:
            exchange.settle()
        else:
            self.spawn(exchange.run())

    async def _control(self, request):
        self.respond(await self.server.control.handle(request, self))

    # --- tasks

    def spawn(self, coroutine):
        self.busy = True
        task = self.server.loop.create_task(coroutine)
        task.add_done_callback(self._task_done)
        self.server.tasks.add(task)

    def _task_done(self, task):
        self.server.tasks.discard(task)
        self.busy = False
        if task.cancelled():
            return
        if task.exception() is not None:
            traceback.print_exception(task.exception())
            self.drop()
        elif not self.is_closing():
            self._advance()

    # --- writing

    def respond(self, response):
        """Answer the present request."""
        request = self.request
        if request is not None and not request.keeps_alive:
            response.close = True
        unread = request is None or request.too_large
        if unread:
            response.close = True
        self.write(response.encode())
        self._forget_request()
        if unread:
            self._linger()
        elif response.close or response.silent_close:
            self.transport.close()

    def _linger(self):
        """Close so that a client in the middle of its body has a chance to see the answer: data that
        nobody reads would turn the close into a reset."""
        self.lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.server.loop.call_later(LINGER_SECONDS, self.transport.close)

    def write(self, data):
        if not self.is_closing():
            self.transport.write(data)

    async def drain(self):
        await asyncio.sleep(0)
        await self.writable.wait()

    def drop(self):
        """End the connection in good manners, without a word more."""
        self._forget_request()
        self.transport.close()

    def reset(self):
        """End the connection with a RST."""
        self._forget_request()
        linger = struct.pack('ii', 1, 0)
        self.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    def is_closing(self):
        return self.lingering or self.transport.is_closing()

    def _forget_request(self):
        if self.request is not None:
            self.server.request_ended(self.request)
            self.request = None


# --------------------------------------------------------------------------------------------------
# What a request wants to have published
# --------------------------------------------------------------------------------------------------


class Event:
    """One event, as the receiver would hand it to its broker."""

    __slots__ = ('id', 'type', 'source', 'key', 'body', 'envelope', 'metadata', 'entry_id', 'entry_index', 'error')

    def __init__(self, body, attributes=None, metadata=None, envelope=None):
        attributes = attributes or {}
        self.metadata = metadata or {}
        self.body = body
        self.envelope = envelope        # text, or None when there is none
        self.id = _attribute(attributes, 'id')
        self.type = _attribute(attributes, 'type')
        self.source = _attribute(attributes, 'source')
        self.key = _attribute(attributes, 'partitionkey')
        if self.key is None:
            self.key = _caseless(self.metadata, 'partitionkey') or self.metadata.get('__key')
        self.entry_id = None
        self.entry_index = None
        self.error = None               # why the component did not take it


def _attribute(attributes, name):
    value = attributes.get(name)
    return value if value is None or isinstance(value, str) else go_marshal(value)


def _caseless(mapping, name):
    """The value of a key whose case does not matter, for name in lower case."""
    return next((value for key, value in mapping.items() if key.lower() == name), None)


class Publication:
    """What prepare() makes of a request: its events, or why it is refused."""

    __slots__ = ('events', 'refusal', 'drop')

    def __init__(self, events=(), refusal=None, drop=False):
        self.events = events
        self.refusal = refusal          # a Response
        self.drop = drop                # the server would crash over it: no response at all


class PlainEndpoint:
    """Takes every POST and answers 204."""

    def route(self, request):
        if request.method != 'POST':
            return text_response(405, 'only POST\n', headers=[('Allow', 'POST')])
        return None

    def prepare(self, request):
        if request.refusal is not None:
            return Publication(refusal=request.refusal)
        if request.too_large:
            return Publication(refusal=text_response(413, 'body too large\n'))
        return Publication([Event(request.body, self._attributes(request))])

    def is_publish(self, request):
        return request.refusal is None

    def answer(self, request, publication):
        error = publication.events[0].error
        return Response(204) if error is None else text_response(500, error)

    @staticmethod
    def _attributes(request):
        """The CloudEvents attributes, of the structured or the binary content mode."""
        if request.header('content-type').lower().startswith('application/cloudevents+json'):
            try:
                attributes = go_unmarshal(request.body)
            except (ValueError, RecursionError):
                return {}
            return attributes if isinstance(attributes, dict) else {}
        return {name[3:]: urllib.parse.unquote(value.encode('latin-1').decode('utf-8', 'replace'))
                for name, value in request.headers.items() if name.startswith('ce-')}


# --------------------------------------------------------------------------------------------------
# daprd
# --------------------------------------------------------------------------------------------------

Profile = collections.namedtuple('Profile', 'version stable_bulk subject oversize_is_text')
PROFILES = {
    '1.18': Profile('1.18.3', True, True, False),
    '1.16': Profile('1.16.9', False, False, False),
    '1.13': Profile('1.13.6', False, False, True),
}
Route = collections.namedtuple('Route', 'kind pubsub topic metadata', defaults=(None, None, None))

DEFAULT_COMPONENTS = {'pubsub': {'type': 'pubsub.in-memory'}}
DEFAULT_TYPE = 'com.dapr.event.sent'
BAD_ESCAPE = re.compile('%(?![0-9A-Fa-f]{2})')
TRACEPARENT = re.compile('(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}')
GO_TRUE = ('1', 't', 'T', 'TRUE', 'true', 'True')
GO_FALSE = ('0', 'f', 'F', 'FALSE', 'false', 'False')
GO_DURATION = re.compile(r'(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)')
GO_UNITS = {'ns': 1e-9, 'us': 1e-6, 'µs': 1e-6, 'ms': 1e-3, 's': 1, 'm': 60, 'h': 3600}


class Refused(Exception):
    """The request earns this Response."""

    def __init__(self, response):
        super().__init__(response)
        self.response = response


class HandlerPanic(Exception):
    """daprd's handler would panic: net/http closes the connection without an answer."""


def go_clean(path):
    """Go's path.Clean of a rooted path."""
    return posixpath.normpath('/' + path.lstrip('/'))


def parse_metadata(query):
    """The query's metadata.* parameters; the first of a name wins, what is malformed is dropped."""
    metadata = {}
    for pair in query.split('&'):
        if ';' in pair or BAD_ESCAPE.search(pair):
            continue
        name, _, value = pair.partition('=')
        name = urllib.parse.unquote_plus(name)
        if name.startswith('metadata.'):
            metadata.setdefault(name[len('metadata.'):], urllib.parse.unquote_plus(value))
    return metadata


def parse_ttl(metadata):
    """Seconds to live, or None: Go duration or whole seconds; what is malformed is ignored."""
    value = _caseless(metadata, 'ttlinseconds') or _caseless(metadata, 'ttl') or ''
    if value.isdigit():
        seconds = int(value)
    elif value and not GO_DURATION.sub('', value):
        seconds = sum(float(part.rstrip('nuµmsh')) * GO_UNITS[part.lstrip('0123456789.')]
                      for part in GO_DURATION.findall(value))
    else:
        return None
    return seconds if seconds > 0 else None


def rfc3339(moment):
    return moment.isoformat(timespec='seconds').replace('+00:00', 'Z')


def media_type(content_type):
    return content_type.partition(';')[0].strip().lower()


class DaprErrors:
    """daprd's error bodies."""

    def __init__(self, app_id):
        self.app_id = app_id

    @staticmethod
    def build(status, code, message, reason, metadata, pubsub=None):
        """An error of the API; without pubsub it names no resource."""
        details = []
        if pubsub is not None:
            details.append({'@type': 'type.googleapis.com/google.rpc.ResourceInfo', 'description': message,
                            'owner': '', 'resource_name': pubsub, 'resource_type': 'pubsub'})
        details.append({'@type': 'type.googleapis.com/google.rpc.ErrorInfo', 'domain': 'dapr.io',
                        'metadata': dict(sorted(metadata.items())), 'reason': 'DAPR_PUBSUB_' + reason})
        body = {'errorCode': code, 'message': message, 'details': details}
        return json_response(status, go_marshal(body, sort=False))

    @staticmethod
    def plain(status, code, message):
        return json_response(status, go_marshal({'errorCode': code, 'message': message}, sort=False))

    def no_route(self):
        return self.plain(404, 'ERR_DIRECT_INVOKE', 'failed getting app id either from the URL path'
                          ' or the header dapr-app-id')

    def unknown_component(self, route):
        return self.build(404, 'ERR_PUBSUB_NOT_FOUND', f'pubsub {route.pubsub} is not found', 'NOT_FOUND',
                          route.metadata)

    def component_gone(self, route):
        message = f"pubsub '{route.pubsub}' not found"
        return self.build(400, 'ERR_PUBSUB_NOT_FOUND', message, 'TEST_NOT_FOUND',
                          {'topic': route.topic, 'error': message}, route.pubsub)

    def forbidden(self, route):
        message = f'topic {route.topic} is not allowed for app id {self.app_id}'
        return self.build(403, 'ERR_PUBSUB_FORBIDDEN', message, 'FORBIDDEN',
                          {'topic': route.topic, 'error': message}, route.pubsub)

    def bad_raw_payload(self, route):
        message = ('failed deserializing metadata. Error: rawPayload value must be a valid boolean:'
                   f" actual is '{route.metadata['rawPayload']}'")
        return self.build(400, 'ERR_PUBSUB_REQUEST_METADATA', message, 'METADATA_DESERIALIZATION',
                          route.metadata, route.pubsub)

    def cloud_event(self, route, error):
        return self.build(500, 'ERR_PUBSUB_CLOUD_EVENTS_SER', 'cannot create cloudevent', 'CLOUD_EVENT_CREATION',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    def publish(self, route, error):
        message = f'error when publishing to topic {route.topic} in pubsub {route.pubsub}: {error}'
        return self.build(500, 'ERR_PUBSUB_PUBLISH_MESSAGE', message, 'PUBLISH_MESSAGE',
                          {'topic': route.topic, 'error': error}, route.pubsub)

    def bulk_unmarshal(self, route, error):
        message = f'error when unmarshaling the request for topic {route.topic} pubsub {route.pubsub}: {error}'
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'UNMARSHAL_EVENTS', {'appID': self.app_id},
                          route.pubsub)

    def bulk_envelope(self, route, error):
        message = ('error when marshalling cloud event envelope for topic'
                   f' {route.topic} pubsub {route.pubsub}: {error}')
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'MARSHAL_ENVELOPE',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    def bulk_entry_id(self, route):
        error = 'entryId is duplicated or not present for entry'
        message = f'error marshaling events to bytes for topic {route.topic} pubsub {route.pubsub}. error: {error}'
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'MARSHAL_EVENTS',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    @staticmethod
    def failed_entries(route, failed):
        entries = [{'entryId': event.entry_id, 'error': event.error} if event.error else {'entryId': event.entry_id}
                   for event in failed]
        text = go_marshal({'failedEntries': entries, 'errorCode': 'ERR_PUBSUB_PUBLISH_MESSAGE'}, sort=False)
        summary = (f'api error: code = Internal desc = error when publishing to topic {route.topic}'
                   f' in pubsub {route.pubsub}: {failed[0].error}')
        # Go replaces line ends in header values.
        summary = re.sub('[\r\n]', ' ', summary)
        return json_response(500, text, [('Metadata.responsedata', text), ('Metadata.error', summary)])


class Enveloper:
    """Wraps events into the CloudEvents envelope that subscribers see."""

    def __init__(self, app_id, profile, components):
        self.app_id = app_id
        self.overridable = {'id', 'source', 'type', 'traceid', 'traceparent', 'tracestate'}
        if profile.subject:
            self.overridable.add('subject')
        self.components = components

    def wrap(self, route, metadata, content_type, body, trace):
        """The Event for a body; ValueError if it should be a CloudEvent and is not."""
        if media_type(content_type) == 'application/cloudevents+json':
            envelope = self._adopt(route, body, trace)
        else:
            envelope = self._create(route, metadata, content_type, body, trace)
        ttl = parse_ttl(metadata)
        if ttl is not None and 'MESSAGE_TTL' not in self.components[route.pubsub].get('capabilities', ()):
            expiration = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=ttl)
            envelope['expiration'] = rfc3339(expiration)
        return Event(body, envelope, metadata, go_marshal(envelope))

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
            'time': rfc3339(datetime.datetime.now().astimezone()),
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
                envelope['data'] = go_unmarshal(body)
                return
            except (ValueError, RecursionError):
                pass            # daprd sends what is no JSON as a string
        envelope['data'] = body.decode('utf-8', 'replace')

    @staticmethod
    def _adopt(route, body, trace):
        envelope = go_unmarshal(body)
        if envelope is None:
            raise HandlerPanic
        if not isinstance(envelope, dict):
            kind = {list: 'array', str: 'string', bool: 'bool'}.get(type(envelope), 'number')
            raise ValueError(f'json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}')
        envelope.setdefault('time', rfc3339(datetime.datetime.now().astimezone()))
        if 'traceid' not in envelope:
            envelope['traceid'] = envelope['traceparent'] = trace[0]
        envelope.setdefault('tracestate', trace[1])
        envelope['topic'] = route.topic
        envelope['pubsubname'] = route.pubsub
        for name, default in (('source', 'Dapr'), ('type', DEFAULT_TYPE), ('specversion', '1.0')):
            if envelope.get(name) is None:
                envelope[name] = default
        return envelope


class BulkEntry:
    """One element of a bulk request, decoded into what Go would hold."""

    FIELDS = {'entryid': 'entry_id', 'event': 'event', 'contenttype': 'content_type', 'metadata': 'metadata'}

    def __init__(self, value):
        self.entry_id = ''
        self.event = None
        self.content_type = ''
        self.metadata = None
        if not isinstance(value, dict):
            raise ValueError('json: cannot unmarshal value into Go value of type http.bulkPublishMessageEntry')
        for name, member in value.items():
            field = self.FIELDS.get(name.lower())
            if field is not None and member is not None:
                self._check(field, member)
                setattr(self, field, member)

    @staticmethod
    def _check(field, member):
        if field == 'event':
            return
        if field == 'metadata':
            fits = isinstance(member, dict) and all(isinstance(value, str) for value in member.values())
        else:
            fits = isinstance(member, str)
        if not fits:
            raise ValueError(f'json: cannot unmarshal value into Go struct field bulkPublishMessageEntry.{field}')

    def to_bytes(self):
        """daprd's ConvertEventToBytes."""
        kind = media_type(self.content_type)
        if kind in ('application/json', 'application/cloudevents+json'):
            return go_marshal(self.event).encode()
        if isinstance(self.event, str):
            if kind == 'application/octet-stream':
                try:
                    return base64.b64decode(self.event, validate=True)
                except binascii.Error as error:
                    raise ValueError(f'error: {error}') from None
            if kind.startswith('text/') or kind == 'application/xml':
                return self.event.encode('utf-8', 'replace')
        raise ValueError('error: mismatch between contentType and event')


class Daprd:
    """daprd's pubsub API, health and metadata.

    The order of the checks is the real one, since it decides which error wins: header size (in
    Connection), path, token, route, component (all in route()), then the body (in prepare())."""

    SINGLE = re.compile('/v1[.]0/publish/([^/]+)/(.+)')
    BULK = re.compile('/v1[.]0(?:-alpha1)?/publish/bulk/([^/]+)/(.+)')
    BULK_ALPHA = re.compile('/v1[.]0-alpha1/publish/bulk/([^/]+)/(.+)')
    GET_ROUTES = {'/v1.0/healthz': 'health', '/v1.0/healthz/outbound': 'outbound', '/v1.0/metadata': 'metadata'}

    def __init__(self, app_id='relay', token=None, components=None, profile='1.18'):
        self.app_id = app_id
        self.token = token
        self.profile = PROFILES[profile]
        self.errors = DaprErrors(app_id)
        self.bulk_path = self.BULK if self.profile.stable_bulk else self.BULK_ALPHA
        self.set_components(components or DEFAULT_COMPONENTS)
        self.ready = True
        self.outbound = True
        self.draining = False
        self.drained = 0                # publishes refused while draining

    def set_components(self, components):
        self.components = components
        self.enveloper = Enveloper(self.app_id, self.profile, components)

    # --- before the body is read

    def route(self, request):
        if BAD_ESCAPE.search(request.path):
            return text_response(400, '400 Bad Request', close=True)
        request.route = route = self._find_route(request)
        exempt = route.kind in ('health', 'outbound')
        if self.token and not exempt and request.header('dapr-api-token') != self.token:
            return text_response(401, 'invalid api token\n', headers=[('X-Content-Type-Options', 'nosniff')])
        if route.kind == 'none':
            return self.errors.no_route()
        if route.kind in ('single', 'bulk') and route.pubsub not in self.components:
            return self.errors.unknown_component(route)
        if route.kind == 'bulk' and self._raw_payload(route) is None:
            return self.errors.bad_raw_payload(route)
        return None

    def _find_route(self, request):
        path = go_clean(request.path)
        if request.method in ('POST', 'PUT'):
            for kind, pattern in (('bulk', self.bulk_path), ('single', self.SINGLE)):
                match = pattern.fullmatch(path)
                if match:
                    pubsub, topic = map(urllib.parse.unquote_plus, match.groups())
                    return Route(kind, pubsub, topic, parse_metadata(request.query))
        return Route(self.GET_ROUTES.get(path, 'none') if request.method == 'GET' else 'none')

    @staticmethod
    def _raw_payload(route):
        """Whether the event shall go out without an envelope; None if that cannot be told."""
        value = route.metadata.get('rawPayload', 'false')
        return True if value in GO_TRUE else False if value in GO_FALSE else None

    def is_publish(self, request):
        return request.route is not None and request.route.kind in ('single', 'bulk')

    # --- with the body

    def prepare(self, request):
        if request.refusal is not None:
            return Publication(refusal=request.refusal)
        kind = request.route.kind
        if kind not in ('single', 'bulk'):
            return Publication(refusal=getattr(self, '_get_' + kind)(request))
        try:
            events = self._single(request) if kind == 'single' else self._bulk(request)
            self._check_component(request.route)
            return Publication(events)
        except Refused as refused:
            return Publication(refusal=refused.response)
        except HandlerPanic:
            return Publication(drop=True)

    def _single(self, request):
        route = request.route
        if request.too_large:
            raise Refused(self._oversize(route))
        raw = self._raw_payload(route)
        if raw is None:
            raise Refused(self.errors.bad_raw_payload(route))
        content_type = request.header('content-type')
        return [self._event(route, raw, route.metadata, content_type, request.body, trace_context(request))]

    def _oversize(self, route):
        if self.profile.oversize_is_text:
            return text_response(400, 'error reading request body: stream too large')
        return self.errors.publish(route, 'stream too large')

    def _event(self, route, raw, metadata, content_type, body, trace):
        if raw:
            return Event(body, {'id': _caseless(metadata, 'cloudevent.id')}, metadata)
        try:
            return self.enveloper.wrap(route, metadata, content_type, body, trace)
        except (ValueError, RecursionError) as error:
            raise Refused(self.errors.cloud_event(route, str(error))) from None

    def _bulk(self, request):
        route = request.route
        if request.too_large:
            raise Refused(self.errors.bulk_unmarshal(route, 'stream too large'))
        entries = self._decode_entries(route, request.body)
        bodies = self._convert_entries(route, entries)
        raw = self._raw_payload(route)
        trace = trace_context(request)
        events = []
        for index, (entry, body) in enumerate(zip(entries, bodies)):
            event = self._event(route, raw, entry.metadata or {}, entry.content_type, body, trace)
            event.entry_id = entry.entry_id
            event.entry_index = index
            events.append(event)
        if 'BULK_PUBSUB' not in self.components[route.pubsub].get('capabilities', ()):
            random.shuffle(events)      # daprd publishes them from as many goroutines
        return events

    def _decode_entries(self, route, body):
        try:
            values = go_unmarshal(body, FLOAT64)
            if values is not None and not isinstance(values, list):
                raise ValueError('json: cannot unmarshal value into Go value of type'
                                 ' []http.bulkPublishMessageEntry')
            return [BulkEntry(value) for value in values or ()]
        except (ValueError, RecursionError) as error:
            raise Refused(self.errors.bulk_unmarshal(route, str(error))) from None

    def _convert_entries(self, route, entries):
        bodies = []
        seen = set()
        for entry in entries:
            try:
                bodies.append(entry.to_bytes())
            except ValueError as error:
                raise Refused(self.errors.bulk_envelope(route, str(error))) from None
            # The request's metadata reaches only entries that have some of their own.
            if entry.metadata is not None:
                entry.metadata = {**route.metadata, **entry.metadata}
            if not entry.entry_id or entry.entry_id in seen:
                raise Refused(self.errors.bulk_entry_id(route))
            seen.add(entry.entry_id)
        return bodies

    def _check_component(self, route):
        component = self.components[route.pubsub]
        allowed = component.get('allowed_topics')
        if allowed is not None and route.topic not in allowed:
            raise Refused(self.errors.forbidden(route))
        if self.draining:
            raise Refused(self._draining_error(route))
        if component.get('down'):
            raise Refused(self.errors.component_gone(route))

    def _draining_error(self, route):
        """The three things a daprd says while its components go away under it, in turn."""
        self.drained += 1
        if self.drained % 3 == 0:
            return self.errors.component_gone(route)
        if self.drained % 3 == 1:
            return self.errors.publish(route, 'component is closed')
        return self.errors.unknown_component(route)

    def answer(self, request, publication):
        route = request.route
        failed = [event for event in publication.events if event.error is not None]
        if not failed:
            response = Response(204)
        elif route.kind == 'single':
            response = self.errors.publish(route, failed[0].error)
        else:
            response = self.errors.failed_entries(route, failed)
        traceparent, tracestate = trace_context(request)
        if traceparent:
            response.headers.append(('Traceparent', traceparent))
        if tracestate:
            response.headers.append(('Tracestate', tracestate))
        return response

    # --- GET

    def _get_health(self, request):
        app_id = urllib.parse.parse_qs(request.query).get('appid')
        if app_id is not None and app_id[0] != self.app_id:
            return self.errors.plain(500, 'ERR_HEALTH_APPID_NOT_MATCH', 'dapr app-id does not match')
        if not self.ready or self.draining:
            return self.errors.plain(500, 'ERR_HEALTH_NOT_READY', 'dapr is not ready: [runtime]')
        return Response(204)

    def _get_outbound(self, _request):
        if not self.outbound:
            return self.errors.plain(500, 'ERR_OUTBOUND_HEALTH_NOT_READY', 'dapr outbound is not ready')
        return Response(204)

    def _get_metadata(self, _request):
        components = [{'name': name, 'type': component.get('type', 'pubsub.in-memory'), 'version': 'v1',
                       'capabilities': component.get('capabilities', [])}
                      for name, component in self.components.items()]
        version = self.profile.version
        return json_response(200, go_marshal({
            'id': self.app_id, 'runtimeVersion': version, 'components': components,
            'extended': {'daprRuntimeVersion': version}, 'subscriptions': [],
            'actorRuntime': {'runtimeStatus': 'DISABLED', 'hostReady': False}}, sort=False))


def trace_context(request):
    """(traceparent, tracestate) of the request; daprd without an exporter hands them on as they are."""
    traceparent = request.header('traceparent')
    if not TRACEPARENT.fullmatch(traceparent):
        return '', ''
    return traceparent, request.header('tracestate')


# --------------------------------------------------------------------------------------------------
# The log
# --------------------------------------------------------------------------------------------------


class Log:
    """Every request, in the order of its outcome; one entry for each event of a bulk request."""

    def __init__(self, path=None):
        self.entries = []
        self.ids = set()        # of the events that were accepted
        self.accepted = 0
        self.last_seq = 0
        self.file = None
        if path is not None:
            self.file = open(path, 'ab+', buffering=0)
            self._load()

    def _load(self):
        """Take over what a former receiver has written; a last line that was cut short is removed."""
        self.file.seek(0)
        content = self.file.read()
        whole = content.rfind(b'\n') + 1
        self.file.truncate(whole)
        for line in content[:whole].splitlines():
            self._count(json.loads(line))

    def append(self, request, event, accepted, status, fault):
        entry = self._entry(request, event, accepted, status, fault)
        self._count(entry)
        if self.file is not None:
            self.file.write(json.dumps(entry).encode() + b'\n')

    def _count(self, entry):
        self.entries.append(entry)
        self.last_seq = entry['seq']
        if entry['accepted']:
            self.accepted += 1
            if entry['id'] is not None:
                self.ids.add(entry['id'])

    def _entry(self, request, event, accepted, status, fault):
        content = request.body if event is None else event.body
        body, is_base64 = _printable(content)
        route = request.route
        entry = {
            'seq': self.last_seq + 1, 'time': request.received, 'accepted': accepted, 'status': status,
            'fault': fault, 'method': request.method, 'path': request.path, 'query': request.query,
            'version': request.version, 'conn': request.conn, 'nth': request.nth,
            'pubsub': route.pubsub if route else None, 'topic': route.topic if route else None,
            'headers': request.headers, 'raw_headers': request.raw_headers,
            'body': body, 'body_is_base64': is_base64,
            'id': None, 'type': None, 'source': None, 'key': None, 'envelope': None,
            'metadata': route.metadata if route else None, 'entry_id': None, 'entry_index': None, 'error': None,
        }
        if event is not None:
            for name in ('id', 'type', 'source', 'key', 'envelope', 'metadata', 'entry_id', 'entry_index', 'error'):
                entry[name] = getattr(event, name)
        return entry

    def select(self, since, accepted, fields):
        """The entries after seq "since", of one kind and reduced to some fields if so wished."""
        if not self.entries:
            return []
        first = self.entries[0]['seq']
        found = self.entries[max(0, since + 1 - first):]
        if accepted is not None:
            found = [entry for entry in found if entry['accepted'] == accepted]
        if fields:
            found = [{name: entry.get(name) for name in fields} for entry in found]
        return found

    def clear(self):
        """Forget all entries; seq goes on, so that whoever follows the log is not misled."""
        self.entries.clear()
        self.ids.clear()
        self.accepted = 0
        if self.file is not None:
            self.file.truncate(0)


def _printable(content):
    """(text, whether it is base64)"""
    try:
        return content.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(content).decode(), True


# --------------------------------------------------------------------------------------------------
# Faults
# --------------------------------------------------------------------------------------------------

OK_HEAD = b'HTTP/1.1 200 OK\r\n'

# Broken answers that are sent in one piece: the bytes; how the connection ends (None: it is the
# client who must end it); the status that the client can see; whether the event counts as taken
# unless the rule says otherwise.
BrokenAnswer = collections.namedtuple('BrokenAnswer', 'data ending status taken')
BROKEN_ANSWERS = {
    'commit_then_drop': BrokenAnswer(b'', Connection.drop, None, True),
    'drop_before_commit': BrokenAnswer(b'', Connection.drop, None, False),
    'rst': BrokenAnswer(b'', Connection.reset, None, False),
    'half_response': BrokenAnswer(OK_HEAD + b'Content-Le', Connection.drop, None, False),
    'partial': BrokenAnswer(OK_HEAD + b'Content-Length: 1000\r\n\r\nshort', Connection.drop, 200, True),
    'partialrst': BrokenAnswer(OK_HEAD + b'Content-Length: 1000\r\n\r\nshort', Connection.reset, 200, True),
    'garbage': BrokenAnswer(b'\x00\xff\x16\x03\x01 not http at all\n' * 20, Connection.drop, None, False),
    'http09': BrokenAnswer(b'hello\n', Connection.drop, None, False),
    'badlen': BrokenAnswer(OK_HEAD + b'Content-Length: -5\r\n\r\nxx', Connection.drop, 200, True),
    'chunkbad': BrokenAnswer(OK_HEAD + b'Transfer-Encoding: chunked\r\n\r\nZZ\r\nxx', Connection.drop, 200, True),
    'nolen': BrokenAnswer(OK_HEAD + b'\r\n{}', None, 200, True),
}


def _endless_body():
    yield OK_HEAD + b'Transfer-Encoding: chunked\r\n\r\n'
    while True:
        yield b'10000\r\n' + b'x' * 0x10000 + b'\r\n'


def _endless_headers():
    yield OK_HEAD
    while True:
        yield b'X-Filler: ' + b'a' * 1000 + b'\r\n'


def _endless_1xx():
    while True:
        yield b'HTTP/1.1 102 Processing\r\n\r\n' * 100


def _dripping_header():
    yield OK_HEAD + b'X-Drip: '
    while True:
        yield b'a'


def _dripping_body():
    yield OK_HEAD + b'Content-Length: 1000000\r\n\r\n'
    while True:
        yield b'x'


# Answers that never end: the pieces; whether the rule's interval lies between them; status and taken
# as above.
EndlessAnswer = collections.namedtuple('EndlessAnswer', 'pieces drips status taken')
ENDLESS_ANSWERS = {
    'hugebody': EndlessAnswer(_endless_body, False, 200, True),
    'hugehdr': EndlessAnswer(_endless_headers, False, None, False),
    'flood1xx': EndlessAnswer(_endless_1xx, False, None, False),
    'slowhdr': EndlessAnswer(_dripping_header, True, None, False),
    'slowbody': EndlessAnswer(_dripping_body, True, 200, True),
}

NUL_BODY = b'\x00\x00{"message":"\x00\x01\x1b[31m\x7f\r\n\xff\xfe\xc3("}\x00'


class Rule:
    """A fault rule.  Its JSON:

    match       object of conditions that must all hold (absent: every publish request): "path"
                (regular expression, searched in path?query), "method", "topic", "pubsub", "id",
                "key" (a string or a list of which one must be equal), "data" (substring of the
                event), "nth" (at least the n-th request of its connection).  Rules with "path"
                see every request, the others only those that want to publish.
    skip, every, times
                let the first N matches pass; then strike each N-th match; N times in all
    action      what to do:
        pass            answer as usual (for the modifiers below)
        status          "status", "body" (text, or JSON for any other value), "headers" (object)
        nul_body        "status" with a body of NULs, bad UTF-8 and control characters
        component_error the component fails with "component_error"; of a bulk request only
                        the entries that meet id, key and data
        fail_entries    of a bulk request: "entry_ids", "indexes" or "entry_regex"; "error" says why;
                        "pad" makes it that many bytes long, and so the response's header
        hang            no answer until the rules are replaced; then "on_release": "drop" or "answer"
        no_continue     100 Continue is withheld
        and the names in BROKEN_ANSWERS and ENDLESS_ANSWERS ("interval": seconds between drips)
                It may be left out where "status", "component_error" or one of the three ways to name
                entries tells it.
    taken       whether the event counts as taken in spite of what is answered
    delay_read, delay_commit, delay_response
                seconds before the body is read, the event is taken, the answer is sent
    close_after end the connection after that many requests; with "announce": false without a
                Connection: close, so that the client's next request meets a closed connection
    kill_pid_from
                file whose first line is the pid to kill, after the event is taken, before the answer
    """

    CONDITIONS = {'path': str, 'method': (str, list), 'topic': (str, list), 'pubsub': (str, list),
                  'id': (str, list), 'key': (str, list), 'data': str, 'nth': int}
    OF_BODY = {'id', 'key', 'data'}
    OPTIONS = {'match': dict, 'skip': int, 'every': int, 'times': int, 'action': str, 'status': int,
               'body': object, 'headers': dict, 'component_error': str, 'entry_ids': list, 'indexes': list,
               'entry_regex': str, 'error': str, 'pad': int, 'on_release': str, 'interval': (int, float),
               'taken': int, 'delay_read': (int, float), 'delay_commit': (int, float),
               'delay_response': (int, float), 'close_after': int, 'announce': int, 'kill_pid_from': str}
    IMPLIED = {'status': 'status', 'component_error': 'component_error', 'entry_ids': 'fail_entries',
               'indexes': 'fail_entries', 'entry_regex': 'fail_entries'}
    ACTIONS = {'pass', 'status', 'nul_body', 'component_error', 'fail_entries', 'hang', 'no_continue',
               *BROKEN_ANSWERS, *ENDLESS_ANSWERS}

    def __init__(self, spec):
        self.spec = spec
        self._check(spec, self.OPTIONS)
        self.match = spec.get('match', {})
        self._check(self.match, self.CONDITIONS)
        self.path = re.compile(self.match['path']) if 'path' in self.match else None
        self.action = self._action(spec)
        self.of_head = 'delay_read' in spec or self.action == 'no_continue'
        if self.of_head and self.OF_BODY & self.match.keys():
            raise ValueError('a rule that strikes before the body is read cannot look into it')
        self.delay_read = spec.get('delay_read', 0)
        self.delay_commit = spec.get('delay_commit', 0)
        self.delay_response = spec.get('delay_response', 0)
        self.seen = 0
        self.fired = 0

    @staticmethod
    def _check(spec, types):
        if not isinstance(spec, dict):
            raise ValueError(f'not an object: {spec}')
        for name, value in spec.items():
            if name not in types:
                raise ValueError(f'unknown in a fault rule: {name}')
            if not isinstance(value, types[name]):
                raise ValueError(f'of the wrong type in a fault rule: {name}: {value!r}')

    def _action(self, spec):
        implied = (action for option, action in self.IMPLIED.items() if option in spec)
        action = spec.get('action') or next(implied, 'pass')
        if action not in self.ACTIONS:
            raise ValueError(f'unknown action: {action}')
        return action

    def strikes(self, request, is_publish, publication=None):
        """Does the rule meet the request, and is it its turn?  Counts."""
        if not self._meets(request, is_publish, publication):
            return False
        self.seen += 1
        beyond = self.seen - self.spec.get('skip', 0)
        if beyond <= 0 or beyond % self.spec.get('every', 1) != 0:
            return False
        if self.fired >= self.spec.get('times', float('inf')):
            return False
        self.fired += 1
        return True

    def _meets(self, request, is_publish, publication):
        if self.path is None and not is_publish:
            return False
        if self.path is not None and not self.path.search(request.target):
            return False
        if request.nth < self.match.get('nth', 0):
            return False
        route = request.route
        return (self._equal('method', request.method)
                and self._equal('topic', route and route.topic)
                and self._equal('pubsub', route and route.pubsub)
                and (self.of_head or self._meets_content(request, publication)))

    def _equal(self, name, value):
        wanted = self.match.get(name)
        return wanted is None or value == wanted or (isinstance(wanted, list) and value in wanted)

    def _meets_content(self, request, publication):
        conditions = self.OF_BODY & self.match.keys()
        if publication.events:
            return not conditions or any(map(self.meets_event, publication.events))
        return conditions <= {'data'} and self._contains(request.body)

    def meets_event(self, event):
        return self._equal('id', event.id) and self._equal('key', event.key) and self._contains(event.body)

    def _contains(self, content):
        return self.match.get('data', '').encode() in content

    def response(self):
        """The answer of the actions "status" and "nul_body"."""
        spec = self.spec
        headers = dict(spec.get('headers', {}))
        body = spec.get('body', '')
        kind = 'text/plain; charset=utf-8' if isinstance(body, str) else 'application/json'
        if self.action == 'nul_body':
            content, kind = NUL_BODY, 'application/json'
        else:
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
        if content and 'content-type' not in map(str.lower, headers):
            headers['Content-Type'] = kind
        return Response(spec.get('status', 500), content, headers.items())

    def fail_events(self, events):
        """Let the component fail for the events that the rule names."""
        for event in events:
            if self.action == 'component_error' and self.meets_event(event):
                event.error = self.spec['component_error']
            elif self.action == 'fail_entries' and self._names_entry(event):
                event.error = self.spec.get('error', 'scripted failure').ljust(self.spec.get('pad', 0), '.')

    def _names_entry(self, event):
        pattern = self.spec.get('entry_regex')
        return (event.entry_id in self.spec.get('entry_ids', ())
                or event.entry_index in self.spec.get('indexes', ())
                or (pattern is not None and re.search(pattern, event.entry_id or '') is not None))


class FaultScript:
    """The rules in force; the first that strikes has the request."""

    def __init__(self, endpoint, loop):
        self.endpoint = endpoint
        self.loop = loop
        self.rules = []
        self.released = loop.create_future()

    def replace(self, specs):
        self.rules = [Rule(spec) for spec in specs]
        self.released.set_result(None)
        self.released = self.loop.create_future()

    def choose_by_head(self, request):
        return self._choose(True, request)

    def choose(self, request, publication):
        return self._choose(False, request, publication)

    def _choose(self, of_head, request, publication=None):
        if not self.rules:
            return None
        is_publish = self.endpoint.is_publish(request)
        return next((rule for rule in self.rules
                     if rule.of_head == of_head and rule.strikes(request, is_publish, publication)), None)

    def report(self):
        return [{**rule.spec, 'seen': rule.seen, 'fired': rule.fired} for rule in self.rules]


class Exchange:
    """One request that has been read: takes it and answers it, as the rule wants it."""

    def __init__(self, server, conn, request):
        self.server = server
        self.conn = conn
        self.request = request
        self.publication = server.endpoint.prepare(request)
        self.rule = request.rule or server.faults.choose(request, self.publication)

    def settle(self):
        """The usual case: take and answer at once."""
        if self.publication.drop:
            self._record(False, None)
            self.conn.drop()
            return
        response = self._usual_response()
        self._record(True, response.status)
        self.conn.respond(response)

    def _usual_response(self):
        return self.publication.refusal or self.server.endpoint.answer(self.request, self.publication)

    def _record(self, taken, status):
        publication = self.publication
        fault = self.rule.action if self.rule else None
        may_take = taken and publication.refusal is None
        for event in publication.events or (None,):
            accepted = may_take and event is not None and event.error is None
            self.server.log.append(self.request, event, accepted, status, fault)

    async def run(self):
        """The other case: as the rule says."""
        rule = self.rule
        await asyncio.sleep(rule.delay_commit)
        if rule.action in BROKEN_ANSWERS:
            await self._break(BROKEN_ANSWERS[rule.action])
        elif rule.action in ENDLESS_ANSWERS:
            await self._never_end(ENDLESS_ANSWERS[rule.action])
        elif rule.action == 'hang':
            await self._hang()
        elif rule.action in ('status', 'nul_body'):
            response = rule.response()
            await self._answer(response, taken=200 <= response.status < 300)
        elif self.publication.drop:
            self.settle()
        else:
            rule.fail_events(self.publication.events)
            await self._answer(self._usual_response(), taken=True)

    async def _take(self, taken, status):
        """Everything that comes between taking the event and answering."""
        rule = self.rule
        self._record(rule.spec.get('taken', taken), status)
        if 'kill_pid_from' in rule.spec:
            kill_pid_from(rule.spec['kill_pid_from'])
        await asyncio.sleep(rule.delay_response)

    async def _answer(self, response, taken):
        spec = self.rule.spec
        if self.request.nth >= spec.get('close_after', float('inf')):
            response.silent_close = True
            response.close = spec.get('announce', True)
        await self._take(taken, response.status)
        self.conn.respond(response)

    async def _break(self, broken):
        await self._take(broken.taken, broken.status)
        self.conn.write(broken.data)
        if broken.ending is None:
            await self.conn.closed
        elif not self.conn.is_closing():
            broken.ending(self.conn)

    async def _never_end(self, endless):
        await self._take(endless.taken, endless.status)
        interval = self.rule.spec.get('interval', 0.3) if endless.drips else 0
        for piece in endless.pieces():
            if self.conn.is_closing():
                return
            self.conn.write(piece)
            await self.conn.drain()
            await asyncio.sleep(interval)

    async def _hang(self):
        released = self.server.faults.released
        await self._take(False, None)
        await asyncio.wait({released, self.conn.closed}, return_when=asyncio.FIRST_COMPLETED)
        if self.conn.is_closing():
            return
        if self.rule.spec.get('on_release', 'drop') == 'answer':
            self.rule = None
            self.settle()
        else:
            self.conn.drop()


def kill_pid_from(path):
    with open(path, encoding='ascii') as file:
        pid = int(file.readline())
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass                            # somebody was faster


# --------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------


def _json_of(request, wanted):
    value = json.loads(request.body)
    if not isinstance(value, wanted):
        raise ValueError(f'not a {wanted.__name__}: {value!r}')
    return value


class Control:
    """The control API."""

    def __init__(self, server):
        self.server = server

    async def handle(self, request, conn):
        command = request.method.lower() + '_' + request.path[len(CONTROL_PREFIX):]
        handler = getattr(self, 'do_' + command, None)
        if handler is None:
            return text_response(404, 'no such control request\n')
        try:
            result = handler(request)
            if asyncio.iscoroutine(result):
                result = await result
        except (ValueError, re.error) as error:
            return text_response(400, f'{error}\n')
        response = json_response(200, json.dumps(result))
        # Who has stopped the listener through the listener's own connection loses that one as well.
        response.close = not (self.server.listening or conn.control_only)
        return response

    def do_get_log(self, request):
        query = dict(urllib.parse.parse_qsl(request.query))
        accepted = query['accepted'] == '1' if 'accepted' in query else None
        fields = query['fields'].split(',') if 'fields' in query else None
        return self.server.log.select(int(query.get('since', 0)), accepted, fields)

    def do_get_stats(self, _request):
        return self.server.stats()

    def do_get_faults(self, _request):
        return self.server.faults.report()

    def do_post_faults(self, request):
        self.server.faults.replace(_json_of(request, list))
        return self.server.faults.report()

    def do_post_reset(self, _request):
        self.server.faults.replace([])
        self.server.log.clear()
        self.server.max_concurrent = self.server.concurrent
        return {}

    async def do_post_state(self, request):
        state = _json_of(request, dict)
        unknown = set(state) - {'listening', 'ready', 'outbound', 'draining', 'components'}
        if unknown:
            raise ValueError(f'unknown state: {sorted(unknown)}')
        if 'listening' in state:
            await self.server.set_listening(state['listening'])
        if set(state) - {'listening'}:
            self._set_daprd(state)
        return {}

    def _set_daprd(self, state):
        daprd = self.server.endpoint
        if not isinstance(daprd, Daprd):
            raise ValueError('only a daprd has this state')
        if 'ready' in state:
            daprd.ready = daprd.outbound = state['ready']
        for name in ('outbound', 'draining'):
            if name in state:
                setattr(daprd, name, state[name])
        if 'components' in state:
            daprd.set_components(state['components'])


class Listener:
    """A TCP port of 127.0.0.1 that can be closed and opened again.

    While it is closed the port stays bound, so that clients are refused and nobody else gets it."""

    def __init__(self, loop, factory, port, tls=None):
        self.loop = loop
        self.factory = factory
        self.tls = tls
        self.server = None
        self.socket = self._bind(port)
        self.port = self.socket.getsockname()[1]

    @staticmethod
    def _bind(port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(('127.0.0.1', port))
        return sock

    async def open(self):
        if self.server is None:
            self.server = await self.loop.create_server(self.factory, sock=self.socket, ssl=self.tls, backlog=1024)

    async def close(self):
        if self.server is not None:
            self.server.close()
            self.server = None
            self.socket = self._bind(self.port)


class UnixListener:
    """The same for a socket in the file system."""

    def __init__(self, loop, factory, path):
        self.loop = loop
        self.factory = factory
        self.path = path
        self.server = None

    async def open(self):
        if self.server is None:
            self.server = await self.loop.create_unix_server(self.factory, self.path, backlog=1024)

    async def close(self):
        if self.server is not None:
            self.server.close()
            self.server = None
            if os.path.exists(self.path):       # Python 3.13 has removed it
                os.unlink(self.path)


class Server:
    def __init__(self, options, loop):
        self.loop = loop
        self.endpoint = make_endpoint(options)
        self.log = Log(options.log)
        self.faults = FaultScript(self.endpoint, loop)
        self.control = Control(self)
        self.max_header = options.max_header
        self.max_body = options.max_body
        self.listeners = make_listeners(options, loop, lambda: Connection(self))
        self.control_listener = Listener(loop, lambda: Connection(self, control_only=True), options.ctl_port)
        self.listening = False
        self.connections = set()
        self.tasks = set()              # keeps them from being collected while they wait
        self.connections_made = 0
        self.requests = 0
        self.concurrent = 0
        self.max_concurrent = 0

    async def start(self, options):
        await self.control_listener.open()
        await self.set_listening(True)
        write_port(options.ctl_port_file, self.control_listener.port)
        for listener in self.listeners:
            if isinstance(listener, Listener):
                write_port(options.port_file, listener.port)

    async def set_listening(self, listening):
        """Without listening, connections that are open end as well: a process that is down has none."""
        self.listening = listening
        for listener in self.listeners:
            await (listener.open() if listening else listener.close())
        if not listening:
            for conn in list(self.connections):
                if not (conn.control_only or (conn.request and conn.request.is_control)):
                    conn.drop()

    def connection_opened(self, conn):
        self.connections.add(conn)
        if not conn.control_only:
            self.connections_made += 1
        return self.connections_made

    def request_began(self, request):
        if not request.is_control:
            self.requests += 1
            self.concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self.concurrent)

    def request_ended(self, request):
        if not request.is_control:
            self.concurrent -= 1

    def stats(self):
        return {'requests': self.requests, 'entries': len(self.log.entries), 'accepted': self.log.accepted,
                'refused': len(self.log.entries) - self.log.accepted, 'distinct_ids': len(self.log.ids),
                'last_seq': self.log.last_seq, 'concurrent': self.concurrent,
                'max_concurrent': self.max_concurrent, 'connections': self.connections_made,
                'open_connections': sum(not conn.control_only for conn in self.connections),
                'listening': self.listening}


def make_endpoint(options):
    if options.mode == 'http':
        return PlainEndpoint()
    return Daprd(options.app_id, options.token, options.components, options.profile)


def make_listeners(options, loop, factory):
    listeners = []
    if options.unix is not None:
        listeners.append(UnixListener(loop, factory, options.unix))
    if options.port is not None or options.unix is None:
        tls = None
        if options.tls_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(options.tls_cert, options.tls_key)
        listeners.append(Listener(loop, factory, options.port or 0, tls))
    return listeners


def write_port(path, port):
    """All at once: who sees the file sees the number."""
    if path is None:
        return
    with open(path + '.tmp', 'w', encoding='ascii') as file:
        file.write(f'{port}\n')
    os.rename(path + '.tmp', path)


async def parent_gone(parent):
    """Poll, since Python knows no other way to learn it."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_CHECK_INTERVAL)


async def serve(options, parent):
    loop = asyncio.get_running_loop()
    stop = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, lambda: stop.done() or stop.set_result(None))
    await Server(options, loop).start(options)
    endings = {stop}
    if options.exit_with_parent:
        endings.add(loop.create_task(parent_gone(parent)))
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)


def parse_options(arguments):
    parser = argparse.ArgumentParser(description='The receiver that the tests relay to.')
    parser.add_argument('--mode', choices=('dapr', 'http'), required=True)
    parser.add_argument('--port', type=int, help='on 127.0.0.1; 0 = any (default, unless --unix is given)')
    parser.add_argument('--port-file', help='is written once the receiver listens')
    parser.add_argument('--ctl-port', type=int, default=0, help='serves only the control API (default: any)')
    parser.add_argument('--ctl-port-file')
    parser.add_argument('--unix', metavar='PATH', help='listen on a Unix socket')
    parser.add_argument('--tls-cert', help='serve https on --port')
    parser.add_argument('--tls-key')
    parser.add_argument('--log', metavar='FILE', help='append each entry; entries of a former run are kept')
    parser.add_argument('--max-body', type=int, help='bytes (default: 4 MiB as daprd, 1 GiB in mode http)')
    parser.add_argument('--max-header', type=int, help='bytes (default: 8 KiB as daprd, 64 KiB in mode http)')
    parser.add_argument('--exit-with-parent', action='store_true')
    dapr = parser.add_argument_group('mode dapr')
    dapr.add_argument('--token', help='the dapr-api-token that clients must send')
    dapr.add_argument('--app-id', default='relay')
    dapr.add_argument('--profile', choices=sorted(PROFILES), default='1.18', help='version of daprd')
    dapr.add_argument('--components', type=json.loads, metavar='JSON',
                      help='{NAME: {"type", "capabilities": [], "allowed_topics": [], "down": false}}')
    options = parser.parse_args(arguments)
    is_dapr = options.mode == 'dapr'
    if options.max_body is None:
        options.max_body = 4 << 20 if is_dapr else 1 << 30
    if options.max_header is None:
        options.max_header = 8192 if is_dapr else 65536
    return options


def main():
    parent = os.getppid()
    # json recurses, and PostgreSQL lets payloads nest deeper than Python's default.
    sys.setrecursionlimit(10000)
    asyncio.run(serve(parse_options(sys.argv[1:]), parent))


if __name__ == '__main__':
    main()
