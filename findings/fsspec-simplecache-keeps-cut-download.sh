#!/usr/bin/env bash
# fsspec's `simplecache`, when a server hangs up in the middle of a file.
#
# The first read raises an error and leaves what had arrived in the cache, under the name of the file. The second read finds
# it there and returns it as the whole file, without an error and without asking the server, which is well again.
#
# Seen on 2026-11-28 with Python 3.11.7, fsspec 2026.9.0 and aiohttp 3.14.5: the two lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/cut.py" <<'PY'
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

SIZE = 12_000_000


class CutsOnce(BaseHTTPRequestHandler):
    is_well = False

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(bytes(SIZE if self.is_well else SIZE - 1_000_000))
        self.wfile.flush()
        time.sleep(0 if self.is_well else 0.5)

    def log_message(self, *_):
        pass


ThreadingHTTPServer.handle_error = lambda *_: None  # of clients that hang up
server = ThreadingHTTPServer(("127.0.0.1", 0), CutsOnce)
threading.Thread(target=server.serve_forever, daemon=True).start()
files = fsspec.filesystem("simplecache", target_protocol="http")
url = f"http://127.0.0.1:{server.server_port}/chunk"
for name in ("first read", "second read"):
    try:
        with files.open(url) as file:
            n_bytes = len(file.read())
        print(f"{name}: {'all bytes' if n_bytes == SIZE else 'fewer bytes than the file has, and no error'}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}")
    CutsOnce.is_well = True
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5
"$folder/venv/bin/python" "$folder/cut.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
first read: ClientPayloadError
second read: fewer bytes than the file has, and no error
SEEN
