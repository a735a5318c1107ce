"""The control API, by which tests tell the receiver what to do and ask what it has seen.

It is served under /__ctl/ on the receiver's own port and on a port of its own (--ctl-port), which
stays open when the first is told to refuse connections.  No fault rule meets its requests:

    GET  /__ctl/log?since=SEQ[&accepted=0|1][&fields=a,b]   entries with a higher seq
    GET  /__ctl/stats          counters
    GET  /__ctl/faults         the rules, with how often each matched ("seen") and struck ("fired")
    POST /__ctl/faults         a list of rules (see rules.py) that replaces the present ones and
                               releases the requests that hang
    POST /__ctl/state          {"listening", "ready", "outbound", "draining", "components"}: any of them
    POST /__ctl/reset          forget log and rules

Answers are JSON; a request that makes no sense gets 400 and a line that says why.
"""

import asyncio
import json
import re
import urllib.parse

from http_message import CONTROL_PREFIX, json_response, text_response

STATE = {'listening', 'ready', 'outbound', 'draining', 'components'}


class Control:
    def __init__(self, server):
        self.server = server

    async def handle(self, request, conn):
        """The Response; GET /__ctl/log is do_get_log, and so on."""
        command = request.method.lower() + '_' + request.path[len(CONTROL_PREFIX):]
        handler = getattr(self, 'do_' + command, None)
        if handler is None:
            return text_response(404, 'no such control request\n')
        try:
            result = handler(request)
            if asyncio.iscoroutine(result):
                result = await result
        except (ValueError, re.error) as error:
            return text_response(400, f'{error}\n')
        response = json_response(200, json.dumps(result))
        # Who has stopped the listener through the listener's own connection loses that one as well.
        response.close = not (self.server.listening or conn.control_only)
        return response

    def do_get_log(self, request):
        query = dict(urllib.parse.parse_qsl(request.query))
        accepted = query['accepted'] == '1' if 'accepted' in query else None
        fields = query['fields'].split(',') if 'fields' in query else None
        return self.server.log.select(int(query.get('since', 0)), accepted, fields)

    def do_get_stats(self, _request):
        return self.server.stats()

    def do_get_faults(self, _request):
        return self.server.faults.report()

    def do_post_faults(self, request):
        self.server.faults.replace(_json_of(request, list))
        return self.server.faults.report()

    def do_post_reset(self, _request):
        self.server.faults.replace([])
        self.server.log.clear()
        self.server.max_concurrent = self.server.concurrent
        return {}

    async def do_post_state(self, request):
        state = _json_of(request, dict)
        unknown = set(state) - STATE
        if unknown:
            raise ValueError(f'unknown state: {sorted(unknown)}')
        if 'listening' in state:
            await self.server.set_listening(state['listening'])
        if set(state) - {'listening'}:
            self.server.endpoint.set_state(state)
        return {}


def _json_of(request, wanted):
    value = json.loads(request.body)
    if not isinstance(value, wanted):
        raise ValueError(f'not a {wanted.__name__}: {value!r}')
    return value
