"""The fault rules: when the receiver misbehaves, and how.

A Rule is made of JSON that the control API gets; it is checked then, and a ValueError (or re.error)
says what is wrong with it.  Rules only decide and prepare: exchange.py does what they want.
FaultScript has the rules in force.
"""

import json
import re

from broken_answers import BROKEN_ANSWERS, ENDLESS_ANSWERS, NUL_BODY
from http_message import Response


class Rule:
    """A fault rule.  Its JSON:

    match       object of conditions that must all hold (absent: every publish request): "path"
                (regular expression, searched in path?query), "header" ("name: value"), "method", "topic", "pubsub", "id",
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
        and the names in broken_answers.py ("interval": seconds between drips)
                It may be left out where "status", "component_error" or one of the three ways to name
                entries tells it.
    taken       whether the event counts as taken in spite of what is answered
    delay_read, delay_commit, delay_response
                seconds before the body is read, the event is taken, the answer is sent
    close_after end the connection after that many requests; with "announce": false without a
                Connection: close, so that the client's next request meets a closed connection, and
                with "close_delay" so many seconds later
    kill_pid_from
                file whose first line is the pid to kill, after the event is taken, before the answer
    """

    CONDITIONS = {'path': str, 'header': str, 'method': (str, list), 'topic': (str, list), 'pubsub': (str, list),
                  'id': (str, list), 'key': (str, list), 'data': str, 'nth': int}
    OF_BODY = {'id', 'key', 'data'}
    OPTIONS = {'match': dict, 'skip': int, 'every': int, 'times': int, 'action': str, 'status': int,
               'body': object, 'headers': dict, 'component_error': str, 'entry_ids': list, 'indexes': list,
               'entry_regex': str, 'error': str, 'pad': int, 'on_release': str, 'interval': (int, float),
               'taken': int, 'delay_read': (int, float), 'delay_commit': (int, float),
               'delay_response': (int, float), 'close_after': int, 'announce': int, 'close_delay': (int, float), 'kill_pid_from': str}
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
        if 'header' in self.match:
            name, _, value = self.match['header'].partition(': ')
            if request.headers.get(name) != value:
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
        self.released = loop.create_future()    # done when these rules are replaced

    def replace(self, specs):
        """Put new rules in force, and release the requests that hang because of the old ones."""
        self.rules = [Rule(spec) for spec in specs]
        self.released.set_result(None)
        self.released = self.loop.create_future()

    def choose_by_head(self, request):
        """A rule that strikes before the body is read, or None."""
        return self._choose(True, request)

    def choose(self, request, publication):
        """A rule that strikes when the body has been read, or None."""
        return self._choose(False, request, publication)

    def _choose(self, of_head, request, publication=None):
        if not self.rules:
            return None
        is_publish = self.endpoint.is_publish(request)
        return next((rule for rule in self.rules
                     if rule.of_head == of_head and rule.strikes(request, is_publish, publication)), None)

    def report(self):
        """The rules as they were given, with how often each matched and struck."""
        return [{**rule.spec, 'seen': rule.seen, 'fired': rule.fired} for rule in self.rules]
