"""Objects of S3 requested through obstore, with the credentials that s3fs finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from zarr.core.sync import sync

from rankme_stream.sources.stores.attempts import request_seconds
from rankme_stream.sources.stores.remote_requests import Answer

_SILENCE = 1 / 3  # of the time of a request, as for s3fs
_LONGEST = 5  # times that time
_CREDENTIALS_LAST = timedelta(minutes=5)  # then s3fs is asked again, and renews those that expire
_KNOWN_CLIENT, _KNOWN_CONFIG = {"region_name", "endpoint_url"}, {"connect_timeout", "read_timeout", "retries"}
_BUCKETS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()  # of each file system; None: s3fs serves it

Get = Callable[[int, int], Coroutine[Any, Any, Answer | None]]


async def obstore_getter(fs: Any, path: str, first: Answer) -> Get | None:
    """Return a request of bytes ``[first, last)`` of an object by obstore; None where s3fs has to go on.

    Parameters
    ----------
    fs
        File system of s3fs, which has its session.
    first
        What s3fs answered for the beginning of the object. The first time for a bucket, obstore must answer the same:
        not every service and configuration that s3fs knows is one that obstore knows.
    """
    try:
        from obstore import get
        from obstore.exceptions import BaseError
    except ImportError:
        return None
    bucket, key, version_id = fs.split_path(path)
    stores = _BUCKETS.setdefault(fs, {})
    if version_id or (bucket in stores and stores[bucket] is None):
        return None
    is_proven = bucket in stores
    store = stores[bucket] if is_proven else await _store_of(fs, bucket)

    def request(start: int, stop: int) -> Answer | None:
        try:
            result = get(store, key, options={"range": (start, stop)})
            meta = result.meta
            tag = meta.get("e_tag") or ""
            return Answer(result.bytes(), tag and f"{tag} {meta['size']}", meta["size"])
        except FileNotFoundError:
            return None

    if not is_proven and first.body:
        try:
            found = None if store is None else await asyncio.to_thread(request, 0, len(first.body))
        except (BaseError, OSError, ValueError):
            found = None
        is_same = found is not None and bytes(found.body) == first.body and found[1:] == first[1:]
        stores[bucket] = store if is_same else None
        if not is_same:
            return None
    return lambda start, stop: asyncio.to_thread(request, start, stop)


async def _store_of(fs: Any, bucket: str) -> Any:
    """Return obstore's store of a bucket as s3fs reaches it; None where options of s3fs are not those of obstore."""
    from obstore.store import S3Store

    is_plain = {*fs.client_kwargs} <= _KNOWN_CLIENT and {*fs.config_kwargs} <= _KNOWN_CONFIG
    if not is_plain or fs.s3_additional_kwargs or fs.req_kw:
        return None
    client = await fs.get_s3(bucket)
    endpoint, seconds = client.meta.endpoint_url, request_seconds()
    options: dict[str, Any] = {"region": client.meta.region_name}
    if ".amazonaws.com" not in endpoint:
        options["endpoint"] = endpoint
    if fs.anon:
        options["skip_signature"] = True
    elif fs.key and fs.secret:
        options |= {"access_key_id": fs.key, "secret_access_key": fs.secret}
        options |= {"session_token": fs.token} if fs.token else {}
    else:
        credentials = await fs.session.get_credentials()
        if credentials is None:
            return None
        options["credential_provider"] = lambda: _frozen(credentials)
    return S3Store(
        bucket,
        **options,
        virtual_hosted_style_request="endpoint" not in options and "." not in bucket,
        client_options={
            "allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=seconds * _LONGEST),
            "connect_timeout": timedelta(seconds=seconds * _SILENCE),
            "read_timeout": timedelta(seconds=seconds * _SILENCE),
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},  # `Attempts` tries again
    )  # fmt: skip


def _frozen(credentials: Any) -> dict[str, Any]:
    """Return credentials of s3fs as obstore takes them, renewed where they expire; called in a thread."""
    found = sync(credentials.get_frozen_credentials())
    return {
        "access_key_id": found.access_key, "secret_access_key": found.secret_key, "token": found.token,
        "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
    }  # fmt: skip
