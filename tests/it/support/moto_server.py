"""moto's server on a port of loopback: python moto_server.py PORT

One request at a time: moto's own server answers several at once without a lock, and its transactions
take their rollback from a copy of the table that another request may have outrun.
"""

import io
import sys
from concurrent.futures import ThreadPoolExecutor

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple


class KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


class OneAtATime:
    """In the order in which they came: a lock could let one wait for ever."""

    def __init__(self, app):
        self.app = app
        self.worker = ThreadPoolExecutor(max_workers=1)

    def __call__(self, environ, start_response):
        # A body that comes slowly holds up nobody else.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        answer = self.worker.submit(lambda: b"".join(self.app(environ, start_response)))
        return [answer.result()]


run_simple(
    "127.0.0.1",
    int(sys.argv[1]),
    OneAtATime(DomainDispatcherApplication(create_backend_app)),
    threaded=True,
    request_handler=KeepAlive,
)
