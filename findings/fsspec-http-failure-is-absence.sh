#!/usr/bin/env bash
# fsspec's HTTP file system, when a server is overloaded for a moment (status 503).
#
# `info` and `exists` answer any failed request as if there were no file: 503 becomes FileNotFoundError, and False. Whoever
# finds out by them which chunks of a store were written takes the chunks of an overloaded server for unwritten ones, which
# by the rules of zarr are fill values. `cat_file`, which reads, raises the error of the server.
#
# Seen on 2026-11-28 with Python 3.11.7, fsspec 2026.9.0 and aiohttp 3.14.5: the three lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/overloaded.py" <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec


class Overloaded(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(503)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Overloaded)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/dump.zarr/c/0/0"
files = fsspec.filesystem("http")
for name in ("exists", "info", "cat_file"):
    try:
        print(f"{name}:", getattr(files, name)(url))
    except Exception as error:
        print(f"{name}:", type(error).__name__)
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5
"$folder/venv/bin/python" "$folder/overloaded.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
exists: False
info: FileNotFoundError
cat_file: ClientResponseError
SEEN
