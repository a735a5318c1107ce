"""The endpoint of --mode http: takes every POST, on any path, and answers 204.

An endpoint has these methods; dapr.py has the other one:

    route(request)      before the body is read: the Response that refuses the request, or None
    prepare(request)    with the body: its Publication
    is_publish(request) whether it wants to publish, which most fault rules ask
    answer(request, publication)
                        the Response, once rules have said which events fail
    set_state(state)    what the control API's "state" changes; ValueError for what it does not have
"""

import urllib.parse

import golang
from http_message import Response, text_response
from publication import Event, Publication


class PlainEndpoint:
    def __init__(self, credentials=None):
        self.credentials = credentials      # what each request has to show; None: nothing

    def route(self, request):
        if request.method != 'POST':
            return text_response(405, 'only POST\n', headers=[('Allow', 'POST')])
        return None

    def prepare(self, request):
        if request.refusal is not None:
            return Publication(refusal=request.refusal)
        if request.too_large:
            return Publication(refusal=text_response(413, 'body too large\n'))
        problem = self.credentials and self.credentials.problem(request)
        if problem:
            return Publication(refusal=text_response(401, problem + '\n'))
        return Publication([Event(request.body, _attributes(request))])

    def is_publish(self, request):
        return request.refusal is None

    def answer(self, _request, publication):
        error = publication.events[0].error
        return Response(204) if error is None else text_response(500, error)

    def set_state(self, _state):
        raise ValueError('only a daprd has this state')


def _attributes(request):
    """The CloudEvents attributes, of the structured or the binary content mode."""
    if request.header('content-type').lower().startswith('application/cloudevents+json'):
        try:
            attributes = golang.unmarshal(request.body)
        except (ValueError, RecursionError):
            return {}
        return attributes if isinstance(attributes, dict) else {}
    return {name[3:]: urllib.parse.unquote(value.encode('latin-1').decode('utf-8', 'replace'))
            for name, value in request.headers.items() if name.startswith('ce-')}
