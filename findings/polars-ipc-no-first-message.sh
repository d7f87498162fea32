#!/usr/bin/env bash
# polars, Arrow IPC files written by `DataFrame.write_ipc`: the first message lacks its prefix.
#
# Behind the eight bytes of "ARROW1" and padding, an Arrow file has to hold a whole Arrow stream: each message begins with a
# continuation mark (ff ff ff ff) and its length, the schema first. polars writes the bytes of the schema there without
# those eight; the messages behind it have them, and `write_ipc_stream` writes them for all. A reader that goes by the footer,
# which has the schema once more, sees nothing of it (`pyarrow.ipc.open_file`). One that reads messages from the front, as it
# must from a pipe, takes the 04 00 00 00 there for the length of a message in the form of before Arrow 0.15, and fails.
# Compressed or not makes no difference.
#
# Seen on 2026-11-29 with Python 3.11.7, polars 2.1.0 and pyarrow 26.0.1: the lines at the end. The last are for a file that
# pyarrow wrote from the same table, which can be read in both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/front.py" <<'PY'
import io

import polars as pl
import pyarrow as pa
from pyarrow import ipc

frame = pl.DataFrame({"x": [1, 2, 3]})


def show(name, stored):
    print(f"{name}: {stored[:8]!r}, then {stored[8:16].hex(' ')}")
    print("  by the footer:", ipc.open_file(io.BytesIO(stored)).read_all().to_pydict())
    try:
        print("  from byte 8:", ipc.open_stream(io.BytesIO(stored[8:])).read_all().to_pydict())
    except (pa.ArrowInvalid, OSError) as error:
        print(f"  from byte 8: {type(error).__name__}: {error}")


stream = io.BytesIO()
frame.write_ipc_stream(stream)
length = int.from_bytes(stream.getvalue()[4:8], "little")
for compression in ("uncompressed", "lz4", "zstd"):
    file = io.BytesIO()
    frame.write_ipc(file, compression=compression)
    show(f"polars, {compression}", file.getvalue())
    same = file.getvalue()[8 : 8 + length] == stream.getvalue()[8 : 8 + length]
    print("  the schema without its prefix:", same, "- then", file.getvalue()[8 + length :][:4].hex(" "))
file = io.BytesIO()
with ipc.new_file(file, frame.to_arrow().schema) as writer:
    writer.write_table(frame.to_arrow())
show("pyarrow", file.getvalue())
PY
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1
"$folder/venv/bin/python" "$folder/front.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
polars, uncompressed: b'ARROW1\x00\x00', then 04 00 00 00 f2 ff ff ff
  by the footer: {'x': [1, 2, 3]}
  from byte 8: OSError: Invalid flatbuffers message.
  the schema without its prefix: True - then ff ff ff ff
polars, lz4: b'ARROW1\x00\x00', then 04 00 00 00 f2 ff ff ff
  by the footer: {'x': [1, 2, 3]}
  from byte 8: OSError: Invalid flatbuffers message.
  the schema without its prefix: True - then ff ff ff ff
polars, zstd: b'ARROW1\x00\x00', then 04 00 00 00 f2 ff ff ff
  by the footer: {'x': [1, 2, 3]}
  from byte 8: OSError: Invalid flatbuffers message.
  the schema without its prefix: True - then ff ff ff ff
pyarrow: b'ARROW1\x00\x00', then ff ff ff ff 78 00 00 00
  by the footer: {'x': [1, 2, 3]}
  from byte 8: {'x': [1, 2, 3]}
SEEN
