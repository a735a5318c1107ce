"""HTTP/1.1 messages: Request and Response, and the bodies of requests as they come in.

Nothing here reads or writes a socket; connection.py does.  Headers are Latin-1 on their way in, so
that no byte is lost, and UTF-8 on their way out.  Input that is not HTTP raises BadRequest, which
carries the answer that the client gets before its connection is closed.
"""

import http
import time

CONTROL_PREFIX = '/__ctl/'


class BadRequest(Exception):
    """Not HTTP that we would answer on a connection that stays open."""

    def __init__(self, status, text=None):
        super().__init__(text)
        self.response = text_response(status, text or f'{status} {http.HTTPStatus(status).phrase}', close=True)


class BodyTooLarge(Exception):
    """A chunked body has grown beyond the limit; of other bodies Content-Length tells it beforehand."""


class Request:
    """A request; the body comes later than the head, and what others make of it later still."""

    __slots__ = ('method', 'target', 'path', 'query', 'version', 'raw_headers', 'headers', 'body',
                 'too_large', 'received', 'conn', 'nth', 'peer', 'route', 'refusal', 'rule')

    def __init__(self, head, conn, nth):
        """conn and nth: the number of the connection, and of the request on it."""
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
        self.peer = None        # the name in the client's certificate
        self.route = None       # what the endpoint's route() made of the path
        self.refusal = None     # the Response that the head alone has earned
        self.rule = None        # the fault rule that the head alone has met

    def header(self, name):
        """The first header of that name, which is in lower case; '' if there is none."""
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


def media_type(content_type):
    """Without parameters, in lower case."""
    return content_type.partition(';')[0].strip().lower()


# --- bodies of requests


def body_reader(request, limit):
    """The object that reads the request's body.  Sets too_large if Content-Length is above limit, in bytes."""
    if 'chunked' in request.header('transfer-encoding').lower():
        return ChunkedBody(limit)
    length = request.header('content-length') or '0'
    if not length.isdigit():
        raise BadRequest(400, '400 Bad Request: bad Content-Length')
    request.too_large = int(length) > limit
    return LengthBody(int(length))


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


class ChunkedBody:
    """A body in chunks; read() is called again with every new piece of input."""

    def __init__(self, limit):
        self.limit = limit
        self.body = bytearray()
        self.wanted = None      # bytes of the present chunk with its CRLF; None before its size line
        self.last = False

    def read(self, buffer):
        """As that of LengthBody; may raise BodyTooLarge."""
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


# --- answers


class Response:
    """An answer; encode() makes bytes of it."""

    __slots__ = ('status', 'headers', 'body', 'close', 'silent_close', 'close_delay')

    def __init__(self, status, body=b'', headers=(), close=False):
        self.status = status
        self.body = body
        self.headers = list(headers)
        self.close = close
        self.silent_close = False       # close without a word in the headers
        self.close_delay = 0            # seconds from the answer to either of these

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
