"""Answers that no healthy server gives: bytes, how they end, and what the log says of them.

Only data: rules.py knows the names, exchange.py sends them.  Of each answer, "status" is what the log
says that the client saw (None: no status at all), and "taken" whether the event counts as taken
unless the rule says otherwise.
"""

import collections

# How the receiver ends a connection; with None it is the client who must end it.
CLOSE = 'close'
RESET = 'reset'

OK_HEAD = b'HTTP/1.1 200 OK\r\n'

# Sent in one piece.
BrokenAnswer = collections.namedtuple('BrokenAnswer', 'data ending status taken')
BROKEN_ANSWERS = {
    'commit_then_drop': BrokenAnswer(b'', CLOSE, None, True),
    'drop_before_commit': BrokenAnswer(b'', CLOSE, None, False),
    'rst': BrokenAnswer(b'', RESET, None, False),
    'half_response': BrokenAnswer(OK_HEAD + b'Content-Le', CLOSE, None, False),
    'partial': BrokenAnswer(OK_HEAD + b'Content-Length: 1000\r\n\r\nshort', CLOSE, 200, True),
    'partialrst': BrokenAnswer(OK_HEAD + b'Content-Length: 1000\r\n\r\nshort', RESET, 200, True),
    'garbage': BrokenAnswer(b'\x00\xff\x16\x03\x01 not http at all\n' * 20, CLOSE, None, False),
    'http09': BrokenAnswer(b'hello\n', CLOSE, None, False),
    'badstatus': BrokenAnswer(b'HTTP/x 500 no\r\nContent-Length: 0\r\n\r\n', CLOSE, None, False),
    'badlen': BrokenAnswer(OK_HEAD + b'Content-Length: -5\r\n\r\nxx', CLOSE, 200, True),
    'chunkbad': BrokenAnswer(OK_HEAD + b'Transfer-Encoding: chunked\r\n\r\nZZ\r\nxx', CLOSE, 200, True),
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


# Sent in pieces until the client has had enough; "drips": with the rule's interval between them.
EndlessAnswer = collections.namedtuple('EndlessAnswer', 'pieces drips status taken')
ENDLESS_ANSWERS = {
    'hugebody': EndlessAnswer(_endless_body, False, 200, True),
    'hugehdr': EndlessAnswer(_endless_headers, False, None, False),
    'flood1xx': EndlessAnswer(_endless_1xx, False, None, False),
    'slowhdr': EndlessAnswer(_dripping_header, True, None, False),
    'slowbody': EndlessAnswer(_dripping_body, True, 200, True),
}

# A body that is poison for a client that takes it for text.
NUL_BODY = b'\x00\x00{"message":"\x00\x01\x1b[31m\x7f\r\n\xff\xfe\xc3("}\x00'
