"""An element of a bulk request, decoded into what Go would hold, and converted as daprd does it.

What does not fit raises a ValueError; dapr.py makes an answer of it.
"""

import base64
import binascii

import golang
from http_message import media_type


class BulkEntry:
    FIELDS = {'entryid': 'entry_id', 'event': 'event', 'contenttype': 'content_type', 'metadata': 'metadata'}

    def __init__(self, value):
        self.entry_id = ''
        self.event = None
        self.content_type = ''
        self.metadata = None
        if value is None:       # an element of null is an empty one
            return
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
        """The event's body: daprd's ConvertEventToBytes."""
        kind = media_type(self.content_type)
        if kind in ('application/json', 'application/cloudevents+json'):
            return golang.marshal(self.event).encode()
        if isinstance(self.event, str):
            if kind == 'application/octet-stream':
                try:
                    return base64.b64decode(self.event, validate=True)
                except binascii.Error as error:
                    raise ValueError('error: unable to decode base64 application/octect-stream data:'
                                     f' {error}') from None
            if kind.startswith('text/') or kind == 'application/xml':
                return self.event.encode('utf-8', 'replace')
        raise ValueError('error: mismatch between contentType and event')
