"""The endpoint of --mode dapr: daprd's pubsub API, health and metadata, of one of three versions.

It follows daprd's source, not what would be sensible.  The order of the checks is the real one, since
it decides which error wins: header size (connection.py), path, token, route, component (all in
route()), then the body (in prepare()).  The rest of what daprd does is in

    dapr_errors.py      the bodies of its errors
    dapr_envelope.py    what it makes of an event
    dapr_bulk.py        what it makes of an element of a bulk request

The methods without an underscore are those of every endpoint; plain_endpoint.py tells what they are.
"""

import collections
import random
import re
import urllib.parse

import golang
from dapr_bulk import BulkEntry
from dapr_envelope import Enveloper, HandlerPanic
from dapr_errors import DaprErrors
from http_message import Response, json_response, text_response
from publication import Event, Publication, caseless

# Are bulk requests no longer alpha; may metadata choose the subject; is a body that is too large
# refused in plain text.
Profile = collections.namedtuple('Profile', 'version stable_bulk subject oversize_is_text')
PROFILES = {
    '1.18': Profile('1.18.3', True, True, False),
    '1.16': Profile('1.16.9', False, False, False),
    '1.13': Profile('1.13.6', False, False, True),
}

# What a path leads to.  kind: single, bulk, health, outbound, metadata or none.
Route = collections.namedtuple('Route', 'kind pubsub topic metadata', defaults=(None, None, None))

DEFAULT_COMPONENTS = {'pubsub': {'type': 'pubsub.in-memory'}}
# Its version, the ids, and what only later versions may have
TRACEPARENT = re.compile('(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?')
NO_TRACE = f'00-{"0" * 32}-{"0" * 16}-00'


class Refused(Exception):
    """The request earns this Response."""

    def __init__(self, response):
        super().__init__(response)
        self.response = response


class Daprd:
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
        self._set_components(components or DEFAULT_COMPONENTS)
        self.ready = True
        self.outbound = True
        self.draining = False
        self.drained = 0                # publishes refused while draining

    def _set_components(self, components):
        self.components = components
        self.enveloper = Enveloper(self.app_id, self.profile, components)

    def set_state(self, state):
        if 'ready' in state:
            self.ready = self.outbound = state['ready']
        self.outbound = state.get('outbound', self.outbound)
        self.draining = state.get('draining', self.draining)
        if 'components' in state:
            self._set_components(state['components'])

    # --- before the body is read

    def route(self, request):
        if golang.BAD_ESCAPE.search(request.path):
            return text_response(400, '400 Bad Request', close=True)
        request.route = self._find_route(request)
        refusal = self._refuse(request, request.route)
        return refusal and _with_trace_context(request, refusal)

    def _refuse(self, request, route):
        """The answer to a request that may not come in, or None."""
        exempt = route.kind in ('health', 'outbound')
        if self.token and not exempt and request.header('dapr-api-token') != self.token:
            return text_response(401, 'invalid api token\n', headers=[('X-Content-Type-Options', 'nosniff')])
        if route.kind == 'none':
            return self.errors.no_route()
        if route.kind in ('single', 'bulk') and route.pubsub not in self.components:
            return self.errors.unknown_component(route)
        if route.kind == 'bulk' and _raw_payload(route) is None:
            return self.errors.bad_raw_payload(route)
        return None

    def _find_route(self, request):
        path = golang.clean_path(request.path)
        if request.method in ('POST', 'PUT'):
            for kind, pattern in (('bulk', self.bulk_path), ('single', self.SINGLE)):
                match = pattern.fullmatch(path)
                if match:
                    pubsub, topic = map(urllib.parse.unquote_plus, match.groups())
                    return Route(kind, pubsub, topic, _parse_metadata(request.query))
        return Route(self.GET_ROUTES.get(path, 'none') if request.method == 'GET' else 'none')

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
            return Publication(refusal=_with_trace_context(request, refused.response))
        except HandlerPanic:
            return Publication(drop=True)

    def _single(self, request):
        route = request.route
        if request.too_large:
            raise Refused(self._oversize(route))
        raw = _raw_payload(route)
        if raw is None:
            raise Refused(self.errors.bad_raw_payload(route))
        content_type = request.header('content-type')
        return [self._event(route, raw, route.metadata, content_type, request.body, _trace_context(request))]

    def _oversize(self, route):
        if self.profile.oversize_is_text:
            return text_response(400, 'error reading request body: stream too large')
        return self.errors.publish(route, 'stream too large')

    def _event(self, route, raw, metadata, content_type, body, trace):
        if raw:
            return Event(body, {'id': caseless(metadata, 'cloudevent.id')}, metadata)
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
        raw = _raw_payload(route)
        trace = _trace_context(request)
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
            values = golang.unmarshal(body, golang.FLOAT64)
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
        return _with_trace_context(request, response)

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

    def _get_metadata(self, request):
        components = [{'name': name, 'type': component.get('type', 'pubsub.in-memory'), 'version': 'v1',
                       'capabilities': component.get('capabilities', [])}
                      for name, component in self.components.items()]
        version = self.profile.version
        return _with_trace_context(request, json_response(200, golang.marshal({
            'id': self.app_id, 'runtimeVersion': version, 'components': components,
            'extended': {'daprRuntimeVersion': version}, 'subscriptions': [],
            'actorRuntime': {'runtimeStatus': 'DISABLED', 'hostReady': False}}, sort=False)))


def _parse_metadata(query):
    """The query's metadata.* parameters; the first of a name wins, what is malformed is dropped."""
    metadata = {}
    for pair in query.split('&'):
        if ';' in pair or golang.BAD_ESCAPE.search(pair):
            continue
        name, _, value = pair.partition('=')
        name = urllib.parse.unquote_plus(name)
        if name.startswith('metadata.'):
            metadata.setdefault(name[len('metadata.'):], urllib.parse.unquote_plus(value))
    return metadata


def _raw_payload(route):
    """Whether the event shall go out without an envelope; None if that cannot be told."""
    return golang.parse_bool(route.metadata.get('rawPayload') or 'false')


def _trace_context(request):
    """(traceparent, tracestate) of the request; daprd without an exporter hands them on as they are,
    but for the version, which is the one that it knows."""
    match = TRACEPARENT.fullmatch(request.header('traceparent'))
    if not match or (match[1] == '00' and match[3]):
        return '', ''
    return '00' + match[2], request.header('tracestate')


def _with_trace_context(request, response):
    """daprd answers all but health checks with the context of the request."""
    if request.route.kind not in ('health', 'outbound'):
        traceparent, tracestate = _trace_context(request)
        response.headers.append(('Traceparent', traceparent or NO_TRACE))
        if tracestate:
            response.headers.append(('Tracestate', tracestate))
    return response
