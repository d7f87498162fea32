#!/usr/bin/env bash
# fsspec's zip file system, asked by a second thread while the first one builds its index.
#
# The index is put in place empty and then filled, so a second thread finds it there and takes names that are not yet in it
# for absent. zarr asks for several keys at once in threads: attributes of an array (`.zattrs`) can be lost that way, and
# with them the scale of its values, without an error. The more names a zip file has, the longer it takes.
#
# Seen on 2026-11-28 with Python 3.11.7 and fsspec 2026.9.0: the two lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/index.py" <<'PY'
import sys
import threading
import zipfile

import fsspec

path = f"{sys.argv[1]}/x.zip"
with zipfile.ZipFile(path, "w") as archive:
    for number in range(100_000):
        archive.writestr(f"c/{number}", b"")
    archive.writestr(".zattrs", b"{}")
files = fsspec.filesystem("zip", fo=path)
first = threading.Thread(target=files.exists, args=("c/0",))
first.start()
while files.dir_cache is None:
    pass
print("while the index is filled:", files.exists(".zattrs"))
first.join()
print("afterwards:", files.exists(".zattrs"))
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check fsspec==2026.9.0
"$folder/venv/bin/python" "$folder/index.py" "$folder" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
while the index is filled: False
afterwards: True
SEEN
