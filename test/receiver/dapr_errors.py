"""daprd's errors, word for word and member for member.

Each method makes a Response; which error wins is decided in dapr.py.  "route" is what dapr.py has
found for the path: it has pubsub, topic and metadata.
"""

import re

import golang
from http_message import json_response


class DaprErrors:
    def __init__(self, app_id):
        self.app_id = app_id

    @staticmethod
    def build(status, code, message, reason, metadata, pubsub=None):
        """An error of the API; without pubsub it names no resource."""
        details = []
        if pubsub is not None:
            details.append({'@type': 'type.googleapis.com/google.rpc.ResourceInfo', 'description': message,
                            'owner': '', 'resource_name': pubsub, 'resource_type': 'pubsub'})
        details.append({'@type': 'type.googleapis.com/google.rpc.ErrorInfo', 'domain': 'dapr.io',
                        'metadata': dict(sorted(metadata.items())), 'reason': 'DAPR_PUBSUB_' + reason})
        body = {'errorCode': code, 'message': message, 'details': details}
        return json_response(status, golang.marshal(body, sort=False))

    @staticmethod
    def plain(status, code, message):
        return json_response(status, golang.marshal({'errorCode': code, 'message': message}, sort=False))

    def no_route(self):
        return self.plain(404, 'ERR_DIRECT_INVOKE', 'failed getting app id either from the URL path'
                          ' or the header dapr-app-id')

    def unknown_component(self, route):
        return self.build(404, 'ERR_PUBSUB_NOT_FOUND', f'pubsub {route.pubsub} is not found', 'NOT_FOUND',
                          route.metadata)

    def component_gone(self, route):
        message = f"pubsub '{route.pubsub}' not found"
        return self.build(400, 'ERR_PUBSUB_NOT_FOUND', message, 'TEST_NOT_FOUND',
                          {'topic': route.topic, 'error': message}, route.pubsub)

    def forbidden(self, route):
        message = f'topic {route.topic} is not allowed for app id {self.app_id}'
        return self.build(403, 'ERR_PUBSUB_FORBIDDEN', message, 'FORBIDDEN',
                          {'topic': route.topic, 'error': message}, route.pubsub)

    def bad_raw_payload(self, route):
        message = ('failed deserializing metadata. Error: rawPayload value must be a valid boolean:'
                   f" actual is '{route.metadata['rawPayload']}'")
        return self.build(400, 'ERR_PUBSUB_REQUEST_METADATA', message, 'METADATA_DESERIALIZATION',
                          route.metadata, route.pubsub)

    def cloud_event(self, route, error):
        return self.build(500, 'ERR_PUBSUB_CLOUD_EVENTS_SER', 'cannot create cloudevent', 'CLOUD_EVENT_CREATION',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    def publish(self, route, error):
        message = f'error when publishing to topic {route.topic} in pubsub {route.pubsub}: {error}'
        return self.build(500, 'ERR_PUBSUB_PUBLISH_MESSAGE', message, 'PUBLISH_MESSAGE',
                          {'topic': route.topic, 'error': error}, route.pubsub)

    def bulk_unmarshal(self, route, error):
        message = f'error when unmarshaling the request for topic {route.topic} pubsub {route.pubsub}: {error}'
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'UNMARSHAL_EVENTS', {'appID': self.app_id},
                          route.pubsub)

    def bulk_envelope(self, route, error):
        message = ('error when marshalling cloud event envelope for topic'
                   f' {route.topic} pubsub {route.pubsub}: {error}')
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'MARSHAL_ENVELOPE',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    def bulk_entry_id(self, route):
        error = 'entryId is duplicated or not present for entry'
        message = f'error marshaling events to bytes for topic {route.topic} pubsub {route.pubsub}. error: {error}'
        return self.build(400, 'ERR_PUBSUB_EVENTS_SER', message, 'MARSHAL_EVENTS',
                          {'appID': self.app_id, 'error': error}, route.pubsub)

    @staticmethod
    def failed_entries(route, failed):
        entries = [{'entryId': event.entry_id, 'error': event.error} if event.error else {'entryId': event.entry_id}
                   for event in failed]
        text = golang.marshal({'failedEntries': entries, 'errorCode': 'ERR_PUBSUB_PUBLISH_MESSAGE'}, sort=False)
        summary = (f'api error: code = Internal desc = error when publishing to topic {route.topic}'
                   f' in pubsub {route.pubsub}: {failed[0].error}')
        # Go replaces line ends in header values.
        summary = re.sub('[\r\n]', ' ', summary)
        return json_response(500, text, [('Metadata.responsedata', text), ('Metadata.error', summary)])
