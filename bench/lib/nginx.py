"""nginx on loopback: reads a request's body, answers 204, counts.  Some topics are answered otherwise: see CONFIG."""

import os
import socket
import subprocess

from lib.wait import wait_until

MODULE = '/usr/lib/nginx/modules/ngx_http_echo_module.so'

# What relays and bare loops send to; the paths are Dapr's.  echo_read_request_body takes the whole
# body before the answer, which a plain "return 204" does not; it costs nothing measurable.
CONFIG = r"""
load_module {module};
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_header_buffer_size 4k;
    client_body_buffer_size 2m;
    client_max_body_size 16m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    log_format arrivals '$msec $http_ce_id';
    split_clients $request_id $hundredth {{ 1% {slow}; * 0; }}

    server {{
        listen 127.0.0.1:{port};
        listen unix:{socket};
        location /v1.0/healthz {{ return 204; }}
        location /v1.0/metadata {{
            default_type application/json;
            return 200 '{{"id":"bench","runtimeVersion":"1.18.3","components":[{{"name":"pubsub","type":"pubsub.bench","version":"v1"}}]}}';
        }}
        access_log {directory}/slow.log combined if=$hundredth;
        location ~ /bad(-\d+)?$ {{ echo_read_request_body; echo_status 404; echo -n ''; }}
        location ~ /slow-\d+$ {{ echo_read_request_body; echo_sleep {slow_topic}; echo_status 204; echo -n ''; }}
        location ~ /watched$ {{
            access_log {directory}/watched.log arrivals;
            echo_read_request_body; echo_status 204; echo -n '';
        }}
        location / {{ echo_read_request_body; {delay} echo_status 204; echo -n ''; }}
    }}
    server {{
        listen unix:{status};
        location / {{ stub_status; }}
    }}
}}
"""


# How long a topic "slow-..." takes to answer.
SLOW_SECONDS = 2


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        return listener.getsockname()[1]


class Nginx:
    """"delay": seconds before each answer.  "hundredth": the same for one answer of a hundred."""

    def __init__(self, stage, delay=0, hundredth=0):
        port = free_port()
        self.url = f'http://127.0.0.1:{port}'
        self._directory = os.path.join(stage.directory, f'nginx-{port}')
        self.socket = f'{self._directory}/socket'
        self._status = f'{self._directory}/status'
        self._asked = 0
        os.mkdir(self._directory)
        wait = f'echo_sleep {delay};' if delay else 'echo_sleep $hundredth;' if hundredth else ''
        path = f'{self._directory}/nginx.conf'
        with open(path, 'w', encoding='ascii') as file:
            file.write(CONFIG.format(module=MODULE, directory=self._directory, port=port, socket=self.socket,
                                     status=self._status, slow=hundredth, delay=wait,
                                     slow_topic=SLOW_SECONDS))
        self._process = subprocess.Popen(['/usr/sbin/nginx', '-c', path, '-e', f'{self._directory}/nginx.log'])
        wait_until('nginx', lambda: os.path.exists(f'{self._directory}/nginx.pid'))

    def requests(self):
        """How many it has answered, apart from the questions asked here."""
        text = subprocess.run(['curl', '-sS', '--unix-socket', self._status, 'http://localhost/'], check=True,
                              capture_output=True, text=True).stdout
        self._asked += 1
        return int(text.split()[9]) - self._asked

    def slow_answers(self):
        """How many of those that were one of a hundred have been given."""
        with open(f'{self._directory}/slow.log', encoding='utf-8') as log:
            return sum(1 for _ in log)

    def arrivals(self):
        """When the events of topic "watched" have come, by their ids; in seconds since the epoch."""
        with open(f'{self._directory}/watched.log', encoding='ascii') as log:
            return {event_id: float(at) for at, event_id in map(str.split, log)}

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.terminate()
        self._process.wait()
