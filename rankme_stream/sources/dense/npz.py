"""``.npz`` archives: ``.npy`` files in a zip file, stored or deflated."""

from __future__ import annotations

from rankme_stream.errors import CorruptChunkError, RankMeError, SourceFormatError
from rankme_stream.sources.array_options import ArrayOptions
from rankme_stream.sources.dense.dense_rows import DenseRows
from rankme_stream.sources.dense.layout import DenseLayout
from rankme_stream.sources.dense.named_arrays import NamedArray, chosen_name, refuse_unscaled
from rankme_stream.sources.dense.npy import npy_layout
from rankme_stream.sources.dense.zip_directory import Member, zip_members
from rankme_stream.sources.dense.zip_streams import ZipMember
from rankme_stream.sources.stores.stored_file import StoredFile

_MOST_OPENED = 256  # members whose headers are read to find the one of rows
_LARGEST_BY_FEATURE = 64 * 2**20  # bytes; each block of rows unpacks the member anew


def open_rows(file: StoredFile, inside: str, options: ArrayOptions, *, is_scales: bool = False) -> DenseRows:
    """Open the rows of an array in an ``.npz`` archive.

    Raises
    ------
    SourceError, StorageError
        If the file cannot be read, is damaged, or holds no such array of numbers.
    """
    members, name = _members(file), inside
    if name not in members:
        name = chosen_name(_arrays(file, members, inside), inside, file.uri, is_scales=is_scales)
    member, layout = _opened(file, name, members[name])
    refuse_unscaled(name, members, layout, options, file.uri)
    rows = DenseRows(member, layout, options, inside=name, is_scales=is_scales)
    if member.is_deflated and rows.lies_by_feature and member.n_bytes > _LARGEST_BY_FEATURE:
        raise SourceFormatError(
            f"{rows.uri} is compressed and lies feature by feature, so that each block of rows would unpack all of it: "
            "save np.ascontiguousarray(rows), or save it by np.savez"
        )
    return rows


def npz_labels(file: StoredFile, inside: str) -> tuple[StoredFile, DenseLayout, str]:
    """Return a stored ``.npy`` file of labels in an archive, where its array lies, and its name in messages.

    Parameters
    ----------
    inside
        Its name; empty for the only array of one dimension.

    Raises
    ------
    SourceError, StorageError
        As ``open_rows``.
    """
    members, name = _members(file), inside
    if name not in members:
        arrays = _arrays(file, members, inside)
        lists = {key: one for key, one in arrays.items() if one.shape is not None and len(one.shape) == 1}
        name = chosen_name(lists or arrays, inside, file.uri, is_scales=True)
    return (*_opened(file, name, members[name]), f"{file.uri}::{name}")


def _members(file: StoredFile) -> dict[str, Member]:
    """Return the arrays of an archive by their names in numpy."""
    with file.opened() as opened:
        found = zip_members(opened, file.uri)
    members = {name.removesuffix(".npy"): one for name, one in found.items()}
    if len(members) < len(found):
        raise CorruptChunkError(f"{file.uri} holds two arrays of one name: write it again with np.savez")
    return members


def _opened(file: StoredFile, name: str, one: Member) -> tuple[ZipMember, DenseLayout]:
    member = ZipMember(file, one)
    layout = npy_layout(member, f"{file.uri}::{name}")
    member.count_as_read(layout.header)
    return member, layout


def _arrays(file: StoredFile, members: dict[str, Member], inside: str) -> dict[str, NamedArray]:
    """Return the arrays of an archive, of many or to name them in a message without their headers."""
    if inside or len(members) > _MOST_OPENED:
        return {name: NamedArray(None, "") for name in members}
    found = {}
    for name, member in members.items():
        try:
            layout = _opened(file, name, member)[1]
        except RankMeError:
            found[name] = NamedArray(None, "(not read)")
        else:
            found[name] = NamedArray(layout.axes, str(layout.dtype), layout)
    return found
