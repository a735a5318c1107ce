"""What a receiver in Go, as daprd is, makes of JSON, paths, durations and booleans.

Where Python's libraries differ from Go's, this follows Go: the spelling of numbers, the order of an
object's members, what is escaped.  No state, nothing of HTTP.  What Go would not read raises a
ValueError with Go's message, as far as tests look at it.
"""

import decimal
import json
import posixpath
import re

BAD_ESCAPE = re.compile('%(?![0-9A-Fa-f]{2})')

# --- JSON, read


class Literal:
    """A number of which the spelling matters."""

    __slots__ = ('text',)

    def __init__(self, text):
        self.text = text


def _precise_int(text):
    # int() would lose the sign of -0, and refuses thousands of digits.
    return int(text) if len(text) < 1000 and text != '-0' else Literal(text)


def _float64(text):
    if len(text) < 16 and text.isdigit():       # exact; the usual case, spared the detour
        return int(text)
    return Literal(_spell_float(float(text)))


def _spell_float(value):
    """A float64 as encoding/json spells it."""
    if value in (float('inf'), float('-inf')):
        raise ValueError('json: cannot unmarshal number into Go value of type float64')
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        return repr(value).replace('e-0', 'e-')
    text = format(decimal.Decimal(repr(value)), 'f')
    return text[:-2] if text.endswith('.0') else text


def _no_constant(text):
    raise ValueError(f"invalid character '{text[0]}' looking for beginning of value")


# Numbers keep their spelling (Decoder.UseNumber), or go through float64 (what Go does by default).
PRECISE = json.JSONDecoder(parse_int=_precise_int, parse_float=Literal, parse_constant=_no_constant)
FLOAT64 = json.JSONDecoder(parse_int=_float64, parse_float=_float64, parse_constant=_no_constant)


def unmarshal(body, decoder=PRECISE):
    """The first JSON value of body; like Go's Decoder, what follows it is not looked at."""
    # A U+FFFD for each byte that is no UTF-8
    text = _NO_UTF8.sub('\ufffd', body.decode('utf-8', 'surrogateescape'))
    start = len(text) - len(text.lstrip(' \t\r\n'))
    if start == len(text):
        raise ValueError('EOF')
    return decoder.raw_decode(text, start)[0]


# --- JSON, written

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(',', ':')).encode
_ENCODE_SORTED = json.JSONEncoder(ensure_ascii=False, separators=(',', ':'), sort_keys=True).encode
_NO_UTF8 = re.compile('[\udc80-\udcff]')
_HTML_UNSAFE = re.compile('[<>&\u2028\u2029\ud800-\udfff]')


def marshal(value, sort=True):
    """value as text: compact, safe for HTML; its keys sorted as those of a map, or in the order of a struct."""
    if not sort:
        text = _ENCODE(value)
    else:
        try:
            text = _ENCODE_SORTED(value)
        except TypeError:
            text = _encode_literals(value)
    return _HTML_UNSAFE.sub(_html_escape, text)


def text(body):
    """A string of these bytes, for marshal(), which escapes each that is no UTF-8."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return Literal(_NO_UTF8.sub(r'\\ufffd', _ENCODE(body.decode('utf-8', 'surrogateescape'))))


def _encode_literals(value):
    """What _ENCODE_SORTED does, for values that hold a Literal."""
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, dict):
        return '{' + ','.join(f'{_ENCODE(k)}:{_encode_literals(v)}' for k, v in sorted(value.items())) + '}'
    if isinstance(value, list):
        return '[' + ','.join(map(_encode_literals, value)) + ']'
    return _ENCODE(value)


def _html_escape(match):
    char = match.group()
    return '\ufffd' if '\ud800' <= char <= '\udfff' else f'\\u{ord(char):04x}'


# --- paths, booleans, times

_TRUE = ('1', 't', 'T', 'TRUE', 'true', 'True')
_FALSE = ('0', 'f', 'F', 'FALSE', 'false', 'False')
_DURATION_PART = re.compile(r'(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)')
_UNITS = {'ns': 1e-9, 'us': 1e-6, 'µs': 1e-6, 'ms': 1e-3, 's': 1, 'm': 60, 'h': 3600}


def clean_path(path):
    """path.Clean of a rooted path."""
    return posixpath.normpath('/' + path.lstrip('/'))


def parse_bool(text):
    """strconv.ParseBool; None for what is neither."""
    return True if text in _TRUE else False if text in _FALSE else None


def parse_duration(text):
    """time.ParseDuration in seconds; None for what is no duration."""
    if not text or _DURATION_PART.sub('', text):
        return None
    return sum(float(part.rstrip('nuµmsh')) * _UNITS[part.lstrip('0123456789.')]
               for part in _DURATION_PART.findall(text))


def rfc3339(moment):
    return moment.isoformat(timespec='seconds').replace('+00:00', 'Z')
