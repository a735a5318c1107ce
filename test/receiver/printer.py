"""The printer: what the receiver gets, for somebody who looks on (--print).

A request that publishes is shown as it came: its line, its headers but for those of the transport, its
body; and the status of the answer.  Bodies stay as they are to the digit: of a long JSON object only the
line is broken, before each member.
"""

import http

# What every client sends, and what says nothing about the event
TRANSPORT = {'host', 'user-agent', 'accept', 'accept-encoding', 'connection', 'content-length', 'transfer-encoding',
             'expect'}
LONG = 80           # characters, from which on an object is broken into lines
SHOWN = 4000        # characters of a body


class Printer:
    def __init__(self, stream):
        self.stream = stream

    def listening(self, where):
        self._write(f'listening on {where}')

    def show(self, request, status):
        """status: that of the answer, None if there is none"""
        if request.method == 'POST':
            self._write('\n'.join(['', *_lines(request, status)]))

    def _write(self, text):
        print(text, file=self.stream, flush=True)


def _lines(request, status):
    yield _plain(f'{request.method} {request.target} {request.version}')
    for name, value in request.raw_headers:
        if name.lower() not in TRANSPORT:
            yield _plain(f'{name}: {value}')
    yield ''
    yield _body(request.body)
    yield f'=> {_answer(status)}'


def _answer(status):
    try:
        return 'no answer' if status is None else f'{status} {http.HTTPStatus(status).phrase}'
    except ValueError:
        return str(status)


def _body(content):
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return f'({len(content)} bytes)'
    shown = text[:SHOWN]
    if len(shown) > LONG and shown.startswith('{'):
        shown = break_members(shown)
    return _plain(shown) + (f' ... ({len(content)} bytes)' if len(text) > SHOWN else '')


def break_members(text):
    """A JSON object with each of its own members on a line; what is inside of them is left alone."""
    broken = []
    depth = 0
    in_string = escaped = at_start = False
    for char in text:
        if at_start and char == ' ':
            continue
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == '\\' and not escaped
        elif char == '"':
            in_string = True
        elif char in '{[':
            depth += 1
        elif char in '}]':
            depth -= 1
        at_start = not in_string and depth == 1 and char in '{,'
        broken.append('\n}' if depth == 0 and not in_string else char + '\n  ' if at_start else char)
    return ''.join(broken)


def _plain(text):
    """Nothing that a terminal would obey"""
    return ''.join(char if char.isprintable() or char == '\n' else ascii(char)[1:-1] for char in text)
