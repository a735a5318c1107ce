"""Payloads that are hard to carry, each with a token by which it is known at the other end.

The token names the transaction that published the event, so that even an event that is in no table
any more tells where it came from.
"""

import json
import re

PADDING = (0, 0, 0, 10, 100, 400)
BIG = 40000
TOKEN = re.compile(rb'token[":= ]+([a-z]+\d+\.\d+[a-z]?)')

# What encoders get wrong: quotes, escapes, control characters, astral planes, separators of lines.
TEXTS = ('plain', '"quoted" \\ back/slash', 'tab\tline\nfeed\r\x01\x1f\x7f', 'äöü €', '\U0001f4e6 box',
         '</script><!--', '\u2028\u2029', '', "it's %s %d {topic}", ',"data":{"token": 1}')

# Numbers travel as they were written, with more digits than a float can hold.  One that is too large for a
# float is dead at once with Dapr, whose subscribers could not decode it.
NUMBERS = ('0', '-0', '1.50', '12345678901234567890123', '1e300', '0.1000000000000000055511151231257827')


def make_json(rng, token, poison=False):
    """The text of a JSON object."""
    fields = [f'"token": "{token}"', f'"text": {json.dumps(rng.choice(TEXTS))}',
              f'"raw": {json.dumps(rng.choice(TEXTS), ensure_ascii=False)}', f'"number": {rng.choice(NUMBERS)}',
              f'"deep": {"[" * 20}{"]" * 20}']
    if poison:
        fields.append('"poison": true')
    size = BIG if rng.random() < 0.005 else rng.choice(PADDING)
    fields.append(f'"padding": "{"x" * size}"')
    return '{' + ', '.join(fields) + '}'


def exact_json(text):
    """The value of a JSON text, its numbers as they are spelt."""
    def number(digits):
        return {'number': digits}
    return json.loads(text, parse_int=number, parse_float=number)


def canonical(value):
    """Such a value as bytes, without what means nothing: spaces, order of names, escapes."""
    return json.dumps(value, sort_keys=True).encode()


def make_bytes(rng, token):
    return f'token={token} '.encode() + rng.randbytes(rng.choice(PADDING))


def find_token(content):
    """The token in an event's payload, or None if there is none any more."""
    match = TOKEN.search(content)
    return match.group(1).decode() if match else None
