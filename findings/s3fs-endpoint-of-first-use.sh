#!/usr/bin/env bash
# s3fs, an endpoint in the environment that changes within a process.
#
# fsspec returns the file system that it made before for the same arguments, and what botocore finds in the environment is no
# argument: `S3FileSystem()` and every `s3://` URL go on asking the server of AWS_ENDPOINT_URL as it was at the first use,
# under the credentials of that time. A process that reads a second service, or a test that starts a second server, gets the
# objects of the first, or its 404. `S3FileSystem.clear_instance_cache()` or `skip_instance_cache=True` is the remedy.
#
# Nothing is requested here. Seen on 2026-11-29 with Python 3.11.7, s3fs and fsspec 2026.9.0: the three lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/endpoint.py" <<'PY'
import os

import s3fs
from fsspec.asyn import sync


def show(name, **options):
    fs = s3fs.S3FileSystem(anon=True, **options)
    sync(fs.loop, fs.set_session)
    print(f"{name}: {fs.s3.meta.endpoint_url}")


os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
os.environ["AWS_ENDPOINT_URL"] = "http://first.invalid"
show("first")
os.environ["AWS_ENDPOINT_URL"] = "http://second.invalid"
show("second")
show("second, skip_instance_cache=True", skip_instance_cache=True)
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check s3fs==2026.9.0 fsspec==2026.9.0
"$folder/venv/bin/python" "$folder/endpoint.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
first: http://first.invalid
second: http://first.invalid
second, skip_instance_cache=True: http://second.invalid
SEEN
