"""Dapr's sidecar on loopback, with a component that keeps events in memory and no subscriber, so that it is the
sidecar that is measured and no broker."""

import json
import os
import re
import subprocess
import urllib.request

from lib.nginx import free_port
from lib.wait import wait_until

COMPONENT = {'apiVersion': 'dapr.io/v1alpha1', 'kind': 'Component', 'metadata': {'name': 'pubsub'},
             'spec': {'type': 'pubsub.in-memory', 'version': 'v1', 'metadata': []}}

# There is no such way to resolve names; else it would ask the network.
CONFIGURATION = {'apiVersion': 'dapr.io/v1alpha1', 'kind': 'Configuration', 'metadata': {'name': 'bench'},
                 'spec': {'nameResolution': {'component': 'none', 'version': 'v1'}}}


class Daprd:
    """"binary": as tools/build-daprd has built it."""

    def __init__(self, stage, binary):
        http, grpc, internal, metrics, public = (free_port() for _ in range(5))
        self.url = f'http://127.0.0.1:{http}'
        self._metrics = f'http://127.0.0.1:{metrics}/metrics'
        self._directory = os.path.join(stage.directory, f'daprd-{http}')
        os.makedirs(f'{self._directory}/resources')
        self._write('resources/pubsub.yaml', COMPONENT)
        self._write('config.yaml', CONFIGURATION)
        with open(f'{self._directory}/log', 'wb') as log:
            self._process = subprocess.Popen(
                [binary, '--app-id', 'bench', '--log-level', 'error',
                 '--resources-path', f'{self._directory}/resources', '--config', f'{self._directory}/config.yaml',
                 '--dapr-listen-addresses', '127.0.0.1', '--dapr-http-port', str(http), '--dapr-grpc-port', str(grpc),
                 '--dapr-internal-grpc-port', str(internal), '--dapr-internal-grpc-listen-address', '127.0.0.1',
                 '--dapr-public-port', str(public), '--dapr-public-listen-address', '127.0.0.1',
                 '--metrics-port', str(metrics), '--metrics-listen-address', '127.0.0.1'],
                stdout=log, stderr=log)
        wait_until('daprd', self._is_ready)

    def _write(self, name, document):
        with open(f'{self._directory}/{name}', 'w', encoding='utf-8') as file:
            json.dump(document, file)           # JSON is YAML

    def _is_ready(self):
        try:
            with urllib.request.urlopen(f'{self.url}/v1.0/healthz/outbound') as answer:
                return answer.status == 204
        except OSError:
            return False

    def requests(self):
        """How many publishes it has answered, single or bulk."""
        with urllib.request.urlopen(self._metrics) as answer:
            text = answer.read().decode()
        return sum(int(float(count)) for labels, count in
                   re.findall(r'^dapr_http_server_request_count\{(.*)\} (\S+)$', text, re.M) if 'publish' in labels)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.terminate()
        self._process.wait()
