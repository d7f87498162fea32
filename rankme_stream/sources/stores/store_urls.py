"""Stores at URLs, also chains of URLs, opened by fsspec with the time limits of our requests."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from zarr.core.sync import sync
from zarr.storage import FsspecStore

from rankme_stream.errors import SourceFormatError
from rankme_stream.sources.stores.attempts import Attempts, request_seconds
from rankme_stream.sources.stores.remote_faults import without_secrets

_SCHEME = re.compile(r"(?:^|::)([A-Za-z][\w+.-]*)(?=://|::)")
_HTTP, _S3 = ("http", "https"), ("s3", "s3a")
_SILENCE = 1 / 3  # of the time of a request: without a byte, an attempt is over
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3"}
_NEED_A_FILE = ("reference", "zip", "tar", "libarchive")  # schemes that read what another URL names


def open_url(url: str) -> FsspecStore:
    """Open a URL by fsspec, with the time limits of `GuardedStore` where a protocol is HTTP or S3.

    Raises
    ------
    ImportError, SourceError, StorageError
        As ``file_system``.
    """
    fs, path = file_system(url)
    return FsspecStore(fs, path=path, read_only=True)


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for a URL, asynchronous and with time limits, and the path in it.

    Raises
    ------
    ImportError
        If fsspec, or its package for a protocol, is not installed.
    SourceFormatError
        If fsspec does not know a scheme, or none of a chain names a file.
    SourceError, StorageError
        If fsspec refuses, or what it reads to open the store cannot be read.
    """
    from fsspec import available_protocols, registry
    from fsspec.core import url_to_fs

    protocols = _SCHEME.findall(url)
    for protocol in protocols:
        if protocol not in available_protocols() and protocol not in registry:
            raise SourceFormatError(
                f"{without_secrets(url)} has the scheme {protocol!r}, which fsspec does not know: check the address, "
                "or install the package that adds it"
            )
    if protocols[-1] in _NEED_A_FILE:
        raise SourceFormatError(
            f"{without_secrets(url)} names no file to read: add it with its scheme, as in "
            f"'{protocols[-1]}://::file:///folder/file::array'"
        )
    options = {protocol: _limits(protocol) for protocol in protocols}

    async def request() -> tuple[Any, str] | ImportError:
        try:
            if len(protocols) == 1 and protocols[0] in (
                *_HTTP,
                *_S3,
            ):  # fsspec keeps one for each thread: all share one
                opened: tuple[Any, str] = url_to_fs(url, asynchronous=True, **options)
                return opened
            return await asyncio.to_thread(url_to_fs, url, asynchronous=True, **options)
        except ImportError as error:
            return error

    opened = sync(Attempts(without_secrets(url)).ask("", request))
    if isinstance(opened, ImportError):
        raise opened
    fs, path = opened
    if not (fs.async_impl and fs.asynchronous):  # a cache has the former of the file system that it caches
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        fs = AsyncFileSystemWrapper(fs, asynchronous=True)
    if protocols[0] in _S3:
        fs.retries = 1  # `Attempts` tries again
    return fs, path


def _limits(protocol: str) -> dict[str, Any]:
    """Return options of a protocol of fsspec: time limits beside what is configured."""
    from fsspec.config import conf

    silence_s = request_seconds() * _SILENCE
    if protocol in _HTTP:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=silence_s, sock_read=silence_s)
        configured = [conf.get(name, {}).get("client_kwargs", {}) for name in _HTTP]
        return {"client_kwargs": {"timeout": timeout, **configured[0], **configured[1]}}
    if protocol in _S3:
        limits = {"connect_timeout": silence_s, "read_timeout": silence_s, "retries": {"total_max_attempts": 1}}
        configured = [conf.get(name, {}).get("config_kwargs", {}) for name in _S3]
        return {"config_kwargs": {**limits, **configured[0], **configured[1]}}
    return {"remote_options": {"asynchronous": True}} if protocol == "reference" else {}


def install_message(url: str, error: ImportError) -> str:
    """Return the command that installs what a URL needs."""
    protocols = [link.partition("://")[0] for link in url.split("::")]
    extra = next((_EXTRAS[protocol] for protocol in protocols if protocol in _EXTRAS), None)
    package = next((_PACKAGES[protocol] for protocol in protocols if protocol in _PACKAGES), None)
    if extra:
        remedy = f"pip install 'rankme-stream[{extra}]'"
    else:
        remedy = f"pip install fsspec {package}" if package else f"install fsspec and its package ({error})"
    return f"{'::'.join(protocols)}:// needs packages that are not installed: {remedy}"
