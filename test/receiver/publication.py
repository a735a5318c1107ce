"""What a request wants to have published: the common language of endpoints, fault rules and log.

An endpoint's prepare() makes a Publication of a request; it holds the Events, or the refusal that the
request has earned.  Fault rules look into events and set their errors; the log writes them down.
"""

import golang


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
            self.key = caseless(self.metadata, 'partitionkey') or self.metadata.get('__key')
        self.entry_id = None            # both only in a bulk request
        self.entry_index = None
        self.error = None               # why the component did not take it


class Publication:
    """The events of a request, or why it is refused."""

    __slots__ = ('events', 'refusal', 'drop')

    def __init__(self, events=(), refusal=None, drop=False):
        self.events = events
        self.refusal = refusal          # a Response
        self.drop = drop                # the server would crash over it: no response at all


def _attribute(attributes, name):
    value = attributes.get(name)
    return value if value is None or isinstance(value, str) else golang.marshal(value)


def caseless(mapping, name):
    """The value of a key whose case does not matter, for name in lower case."""
    return next((value for key, value in mapping.items() if key.lower() == name), None)
