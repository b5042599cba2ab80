"""A file server on this machine that can be told to misbehave."""
import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Serves the files of a folder, with ranges; `url` is its address.

    break_at: by file name, after how many bytes the connection is cut, one for each of the next answers.
    ranges: whether it knows ranges. busy: answers with status 503 to give first.
    asked: how often each file was asked for. starts: first bytes of the answers.
    """

    def __init__(self, folder: Path):
        self.folder, self.url = folder, ''
        self.break_at, self.ranges, self.busy = {}, True, 0
        self.asked, self.starts = Counter(), []


@contextmanager
def serving(folder: Path):
    """A Server while the block runs."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.0'

        def do_GET(self):
            answer(self, state)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    state.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler: BaseHTTPRequestHandler, state: Server) -> None:
    """Send a file, or the part of it that is asked for."""
    name = handler.path.rpartition('/')[2]
    path = state.folder / name
    state.asked[name] += 1
    if state.busy:
        state.busy -= 1
        return handler.send_error(503)
    if not path.is_file():
        return handler.send_error(404)
    content = path.read_bytes()
    asked = re.fullmatch(r'bytes=(\d+)-', handler.headers.get('Range', ''))
    start = int(asked[1]) if asked and state.ranges else 0
    state.starts.append(start)
    if start and start >= len(content):
        handler.send_response(416)
        handler.send_header('Content-Range', f'bytes */{len(content)}')
        handler.end_headers()
        return None
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
    handler.send_header('Content-Length', str(len(content) - start))
    handler.end_headers()
    cuts = state.break_at.get(name)
    handler.wfile.write(content[start:][:cuts.pop(0) if cuts else None])
    return None
