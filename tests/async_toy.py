"""A card over numpy that does its work later, as a real one does, and spoils all memory that may be written again.

Every operation on its arrays is put into the queue of the current stream. A schedule, drawn from a seed, decides at
which moment the next operation of which stream is done: in the order of each stream, and not before the events that the
stream waits for. The host waits only where it fetches numbers, which waits for the current stream alone, or where it
asks to. Whoever reads too early, or too late, finds bytes of ones, which are NaN in every type of numbers with a
fraction:

* new memory of the card;
* memory of the card that nothing refers to any more, once it was given to an array that was made later in the stream
  in which it had been allocated. As in pools of real libraries, such arrays get it at once, although work of the stream
  may still use it; it is spoiled when the stream has come to the point at which it was freed;
* pinned memory that nothing refers to any more, at once.

Threads of the host that read can be played as well (``Readers``): then a seed repeats everything. A schedule can leave
out waits: those that certain lines of a program ask for.
"""

from __future__ import annotations

import math
import random
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import numpy as plain

from rankme_stream.errors import RankMeError
from rankme_stream.numerics.devices.array_api import StandardDevice
from rankme_stream.numerics.devices.device import Workspace

TYPES = (
    "float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip
DLPACK_KIND = 78
_POISON, _ALIGNED = 0xFF, 64


class Exact16(StandardDevice):
    """A device that multiplies float16 rows as they are, as cards do, and sums in float32."""

    def multiplies_exactly(self, kind: Any) -> bool:
        """Return whether rows are float16."""
        return bool(kind.name == "float16")

    def set_product(self, left: Any, right: Any, out: Any) -> None:
        """Write ``left.T @ right`` into ``out``."""
        xp = self.xp
        super().set_product(xp.astype(left, out.dtype, copy=False), xp.astype(right, out.dtype, copy=False), out)


PLAIN = Exact16(plain, "plain:0", types=TYPES)  # the arithmetic of the toy, done at once


class Site(NamedTuple):
    """Lines of a program that hold one call."""

    file: str
    first: int
    last: int


class DeadlockError(RuntimeError):
    """A wait that nothing can end."""


class _Operation(NamedTuple):
    work: Callable[[], object] | None
    after: ToyEvent | None


class _Queue:
    """Operations in order, ``n_done`` of the ``n_queued`` done; and free memory for what they write."""

    def __init__(self, weight: float) -> None:
        self.weight, self.waiting = weight, deque[_Operation]()
        self.pool: list[tuple[np.ndarray, _Freed]] = []
        self.freed: deque[_Freed] = deque()
        self.n_queued = self.n_done = 0

    def put(self, work: Callable[[], object] | None, after: ToyEvent | None = None) -> None:
        """Put an operation at the end."""
        self.waiting.append(_Operation(work, after))
        self.n_queued += 1

    @property
    def is_ready(self) -> bool:
        """Whether the next operation can be done."""
        return bool(self.waiting) and (self.waiting[0].after is None or self.waiting[0].after.is_done)


class Schedule:
    """Decides when the operations of several queues are done.

    Parameters
    ----------
    seed
        Of a random schedule; or "early", as soon as possible, or "late", only when the host waits for it.
    left_out
        Calls in programs whose waits do nothing.
    """

    def __init__(self, seed: int | str, left_out: tuple[Site, ...] = ()) -> None:
        self.seed, self.left_out = seed, left_out
        self._random = random.Random(seed)
        self._eagerness = {"early": 1.0, "late": 0.0}.get(str(seed), self._random.choice([0.0, 0.1, 0.3, 0.6, 0.9]))
        self._strays = 0.0 if seed == "late" else self._random.choice([0.0, 0.5, 1.0])
        self._queues: list[_Queue] = []
        self._lock = threading.RLock()

    def queue(self) -> _Queue:
        """Return a new queue, fast or slow."""
        with self._lock:
            self._queues.append(_Queue(10.0 ** self._random.uniform(-2, 2)))
            return self._queues[-1]

    def choose(self, things: list[Any]) -> Any:
        """Return one of several things."""
        with self._lock:
            return self._random.choice(things)

    def put(self, queue: _Queue, work: Callable[[], object] | None, after: ToyEvent | None = None) -> None:
        """Put an operation into a queue, and do none, some or all that can be done."""
        with self._lock:
            queue.put(work, after)
            while self._random.random() < self._eagerness and (ready := self._ready()):
                self._do(self._chosen(ready))

    def wait(self, event: ToyEvent) -> None:
        """Do operations until an event was reached, in any order that is allowed; some need not have been done."""
        with self._lock:
            while not event.is_done:
                ready = self._ready() if self._random.random() < self._strays else []
                self._do(self._chosen(ready) if ready else _needed(event))

    def leaves_out(self) -> bool:
        """Return whether a wait does nothing, because it is part of a call that is left out."""
        frame = sys._getframe(2) if self.left_out else None
        while frame is not None and frame.f_code is not Schedule._do.__code__:
            file, line = frame.f_code.co_filename, frame.f_lineno
            if any(site.file == file and site.first <= line <= site.last for site in self.left_out):
                return True
            frame = frame.f_back
        return False

    def _ready(self) -> list[_Queue]:
        return [queue for queue in self._queues if queue.is_ready]

    def _chosen(self, ready: list[_Queue]) -> _Queue:
        return self._random.choices(ready, [queue.weight for queue in ready])[0]

    def _do(self, queue: _Queue) -> None:
        operation = queue.waiting.popleft()
        if operation.work is not None:
            with np.errstate(all="ignore"):
                operation.work()
        queue.n_done += 1
        while queue.freed and queue.freed[0].spoil_if_reached():
            queue.freed.popleft()


def _needed(event: ToyEvent) -> _Queue:
    """Return the queue whose next operation brings an event nearer."""
    seen: set[int] = set()
    queue = event.queue
    while not queue.is_ready:
        if id(queue) in seen or not queue.waiting:
            raise DeadlockError("queues wait for each other")
        seen.add(id(queue))
        after = queue.waiting[0].after
        assert after is not None
        queue = after.queue
    return queue


class ToyEvent:
    """A point in a queue."""

    def __init__(self, schedule: Schedule, queue: _Queue, number: int) -> None:
        self._schedule, self.queue, self._number = schedule, queue, number

    @property
    def is_done(self) -> bool:
        """Whether the work before it is done."""
        return self.queue.n_done >= self._number

    def wait(self) -> None:
        """Wait for the work before it."""
        if not self._schedule.leaves_out():
            self._schedule.wait(self)


class ToyStream:
    """A queue of a card; as a context it is the current one of the thread.

    A new stream may be known by the number of one that is gone: then it has the free memory of that one, whose work may
    still be under way.
    """

    def __init__(self, card: AsyncToy) -> None:
        self._card, self.queue = card, card.schedule.queue()
        if card.old_pools:
            self.queue.pool = card.old_pools.pop(card.schedule.choose(list(range(len(card.old_pools)))))

    def __del__(self) -> None:
        self._card.old_pools.append(self.queue.pool)

    def __enter__(self) -> None:
        self._card.entered.append(self._card.current if self._card.schedule.leaves_out() else self.queue)

    def __exit__(self, *error: object) -> None:
        self._card.entered.pop()

    def copy(self, rows: np.ndarray, out: ToyArray) -> None:
        """Queue a copy of rows in pinned memory, of the same shape and type, each in one piece."""
        source, target = self._card.alias(rows), out.raw
        assert source.shape == target.shape and source.dtype == target.dtype
        assert source.flags.c_contiguous and target.flags.c_contiguous
        self._card.schedule.put(self.queue, lambda: np.copyto(target, source))

    def record(self) -> ToyEvent:
        """Return the point after all that was queued."""
        number = 0 if self._card.schedule.leaves_out() else self.queue.n_queued
        return ToyEvent(self._card.schedule, self.queue, number)

    def wait(self, event: ToyEvent) -> None:
        """Let what is queued from here on begin after an event."""
        if not self._card.schedule.leaves_out():
            self._card.schedule.put(self.queue, None, event)


class _Freed:
    """The point in a queue at which memory was freed: earlier work of the queue may use it until then."""

    def __init__(self, queue: _Queue) -> None:
        self._queue, self._number, self._given = queue, queue.n_queued, list[np.ndarray]()
        queue.freed.append(self)

    def give(self, memory: np.ndarray) -> None:
        """Spoil memory that is given to others, now or when the point is reached."""
        self._given.append(memory)
        self.spoil_if_reached()

    def spoil_if_reached(self) -> bool:
        """Spoil the memory that was given to others, if the point was reached."""
        is_reached = self._queue.n_done >= self._number
        while is_reached and self._given:
            spoil(self._given.pop())
        return is_reached


class _Memory:
    """Bytes of a card, from the pool of the queue in which they are allocated; they go back there at once."""

    def __init__(self, card: AsyncToy, n_bytes: int) -> None:
        self._queue, wanted = card.current, -(-n_bytes // _ALIGNED) * _ALIGNED
        pool = self._queue.pool
        fitting = [number for number, (free, _) in enumerate(pool) if free.size >= wanted]
        if fitting:
            free, freed = pool.pop(card.schedule.choose(fitting))
            self.held = free[:wanted]
            freed.give(self.held)
            if free.size > wanted:
                pool.append((free[wanted:], freed))
        else:
            self.held = np.full(wanted, _POISON, np.uint8)

    def __del__(self) -> None:
        self._queue.pool.append((self.held, _Freed(self._queue)))


def spoil(memory: np.ndarray) -> None:
    """Fill an array of numpy, in one piece, with bytes of ones."""
    memory.reshape(-1).view(np.uint8).fill(_POISON)


class ToyArray:
    """An array of the card: a shape at once, values later."""

    __array_ufunc__ = None  # numbers of numpy leave operators to it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, card: AsyncToy, memory: _Memory, raw: np.ndarray) -> None:
        self.card, self._memory, self.raw = card, memory, raw
        self.shape, self.dtype, self.ndim, self.size = raw.shape, raw.dtype, raw.ndim, raw.size

    def view(self, raw: np.ndarray) -> ToyArray:
        """Return an array in the same memory."""
        return ToyArray(self.card, self._memory, raw)

    @property
    def T(self) -> ToyArray:  # noqa: N802 - the standard's name
        """The transpose, in the same memory."""
        return self.view(self.raw.T)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.raw.nbytes

    def reshape(self, *shape: Any) -> ToyArray:
        """Return the values in another shape, in the same memory where that is possible."""
        made = self.raw.reshape(*shape)
        return self.view(made) if np.shares_memory(made, self.raw) else self.card.later(np.reshape, self, *shape)

    def __getitem__(self, key: Any) -> ToyArray:
        keys = key if isinstance(key, tuple) else (key,)
        if all(one is None or one is Ellipsis or isinstance(one, int | np.integer | slice) for one in keys):
            return self.view(self.raw[keys if Ellipsis in keys else (*keys, ...)])  # never a number of numpy
        return self.card.later(lambda raw, *keys: raw[keys], self, *keys)

    def __setitem__(self, key: Any, value: Any) -> None:
        _refuse_host(value)
        keys, raw, value = _raw(key if isinstance(key, tuple) else (key,)), self.raw, _raw(value)
        self.card.put(lambda: raw.__setitem__(keys, value))

    def __float__(self) -> float:
        return float(self.card.download(self))

    def __int__(self) -> int:
        return int(self.card.download(self))

    def __bool__(self) -> bool:
        return bool(self.card.download(self))

    def __len__(self) -> int:
        return self.raw.shape[0]

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise TypeError("an array of a card is not fetched without asking")

    def __dlpack__(self, **options: Any) -> Any:
        raise TypeError("no library shares memory with the toy")

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_KIND, 0


def _refuse_host(value: Any) -> None:
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("an array of the host does not mix with those of a card")


def _raw(value: Any) -> Any:
    """Return a value with numpy's arrays in place of those of the card."""
    return _each(value, lambda array: array.raw)


def _ones(value: Any) -> Any:
    """Return a value with arrays of ones in place of those of the card."""
    return _each(value, lambda array: np.ones(array.shape, array.dtype))


def _each(value: Any, change: Callable[[ToyArray], np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {name: _each(one, change) for name, one in value.items()}
    if isinstance(value, tuple | list):
        changed = [_each(one, change) for one in value]
        return type(value)(*changed) if hasattr(value, "_fields") else type(value)(changed)
    return change(value) if isinstance(value, ToyArray) else value


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: ToyArray, *other: Any) -> Any:
        for one in other:
            _refuse_host(one)
        return self.card.later(lambda raw, *others: getattr(raw, name)(*others), self, *other)

    return apply


def _in_place(name: str) -> Callable[..., Any]:
    def apply(self: ToyArray, other: Any) -> ToyArray:
        _refuse_host(other)
        raw, value = self.raw, _raw(other)
        self.card.put(lambda: getattr(raw, name)(value))
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor"):
    setattr(ToyArray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(ToyArray, f"__r{_name}__", _operator(f"__r{_name}__"))
    setattr(ToyArray, f"__i{_name}__", _in_place(f"__i{_name}__"))
for _name in ("neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ToyArray, f"__{_name}__", _operator(f"__{_name}__"))


class _Namespace:
    """The namespace of numpy with functions that are done later."""

    def __init__(self, card: AsyncToy, names: Any) -> None:
        self._card, self._names = card, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._names, name)
        if name == "linalg":
            return _Namespace(self._card, found)
        if not callable(found) or isinstance(found, type):
            return found
        return lambda *arguments, **options: self._card.later(found, *arguments, **options)

    def asarray(self, values: Any, dtype: Any = None, device: Any = None, copy: bool | None = None) -> ToyArray:
        if not isinstance(values, ToyArray):
            return self._card.upload(np.asarray(values, dtype))
        if not copy and dtype in (None, values.dtype):
            return values
        return self._card.later(np.array, values, dtype=dtype)

    def astype(self, values: ToyArray, dtype: Any, copy: bool = True) -> ToyArray:
        return values if values.dtype == dtype and not copy else self._card.later(np.array, values, dtype=dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float64, device: Any = None) -> ToyArray:
        return self._card.allocate(shape, dtype)

    def from_dlpack(self, values: ToyArray) -> ToyArray:
        self._card.schedule.wait(self._card.mark())
        return values


class AsyncToy(Exact16):
    """A card whose work is done by a schedule."""

    def __init__(self, schedule: Schedule, name: str = "toy:0") -> None:
        super().__init__(_Namespace(self, plain), name, types=TYPES)
        self.schedule = schedule
        self._default, self._threads = schedule.queue(), threading.local()
        self._pinned: dict[int, bytearray] = {}
        self.old_pools: list[list[tuple[np.ndarray, _Freed]]] = []

    @property
    def entered(self) -> list[_Queue]:
        """Queues of the streams that this thread is inside of."""
        if not hasattr(self._threads, "entered"):
            self._threads.entered = []
        found: list[_Queue] = self._threads.entered
        return found

    @property
    def current(self) -> _Queue:
        """Queue that takes the operations of this thread."""
        return self.entered[-1] if self.entered else self._default

    def mark(self) -> ToyEvent:
        """Return the point after all that is in the current queue."""
        return ToyEvent(self.schedule, self.current, self.current.n_queued)

    def put(self, work: Callable[[], object]) -> None:
        """Queue work."""
        self.schedule.put(self.current, work)

    def allocate(self, shape: Any, dtype: Any) -> ToyArray:
        """Return spoiled memory."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        memory = _Memory(self, n_bytes)
        return ToyArray(self, memory, memory.held[:n_bytes].view(dtype).reshape(shape))

    def later(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Queue a function of arrays, which changes none, and return where its results will be.

        Their shapes and types are found by calling it with arrays of ones.
        """
        with np.errstate(all="ignore"):
            likes = function(*_ones(arguments), **_ones(options))
        several = isinstance(likes, tuple)
        made = [self.allocate(like.shape, like.dtype) for like in (likes if several else (np.asarray(likes),))]
        raws = [one.raw for one in made]
        given, named = _raw(arguments), _raw(options)

        def work() -> None:
            found = function(*given, **named)
            for raw, values in zip(raws, found if several else (found,), strict=True):
                raw[...] = values

        self.put(work)
        return type(likes)(*made) if several and hasattr(likes, "_fields") else tuple(made) if several else made[0]

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float64, order: Any = "C") -> ToyArray:
        """Return an array that will be zero."""
        made = self.allocate(shape, dtype)
        raw = made.raw
        self.put(lambda: raw.fill(0))
        return made

    def empty(self, shape: tuple[int, ...], like: ToyArray) -> ToyArray:
        """Return spoiled memory of the type of another array."""
        return self.allocate(shape, like.dtype)

    def upload(self, values: np.ndarray) -> ToyArray:
        """Return an array that will have the values that an array of the host has now."""
        held = np.array(values)
        made = self.allocate(held.shape, held.dtype)
        raw = made.raw
        self.put(lambda: np.copyto(raw, held))
        return made

    def download(self, values: ToyArray) -> np.ndarray:
        """Wait for the current stream, and for no other, and return the values that are there then."""
        self.schedule.wait(self.mark())
        return values.raw.copy()

    def stream(self) -> ToyStream:
        """Return a new stream."""
        return ToyStream(self)

    def finish(self) -> None:
        """Wait for what was queued outside of streams, and in the current one."""
        if not self.schedule.leaves_out():
            self.schedule.wait(ToyEvent(self.schedule, self._default, self._default.n_queued))
            self.schedule.wait(self.mark())

    def pinned(self, n_bytes: int) -> np.ndarray:
        """Return memory from which streams copy."""
        memory = bytearray([_POISON]) * n_bytes
        made = np.frombuffer(memory, np.uint8)
        address = made.ctypes.data
        self._pinned[address] = memory
        weakref.finalize(made, self._unpin, address)
        return made

    def _unpin(self, address: int) -> None:
        spoil(np.frombuffer(self._pinned.pop(address), np.uint8))

    def is_pinned(self, rows: np.ndarray) -> bool:
        """Return whether streams copy from an array."""
        return self._pinned_memory(rows) is not None

    def _pinned_memory(self, rows: np.ndarray) -> tuple[int, bytearray] | None:
        begin = rows.ctypes.data
        return next(
            ((at, memory) for at, memory in self._pinned.items() if at <= begin < at + len(memory)), None
        )  # fmt: skip

    def alias(self, rows: np.ndarray) -> np.ndarray:
        """Return the same rows of pinned memory without a hold on it, as a queued copy has none."""
        found = self._pinned_memory(rows)
        assert found is not None, "rows are copied from memory that is not pinned"
        return np.ndarray(rows.shape, rows.dtype, found[1], rows.ctypes.data - found[0], rows.strides)

    def stored_rows(self, shape: tuple[int, int], kind: Any) -> ToyArray:
        """Return spoiled memory for stored rows."""
        return self.allocate(shape, kind.name)

    def fill_slab(self, stored: Any, kind: Any, slab: Any, seen: Any, skip: int) -> None:
        """Queue the filling of a slab."""
        self._put_plain(PLAIN.fill_slab, stored, kind, slab, seen, skip)

    def unit_rows(self, slab: Any, out: Any) -> None:
        """Queue the scaling of rows."""
        self._put_plain(PLAIN.unit_rows, slab, out)

    def add_panels(self, slab: Any, panel_rows: int, total: Any, scratch: Any) -> None:
        """Queue the products of a slab."""
        self._put_plain(PLAIN.add_panels, slab, panel_rows, total, Workspace(PLAIN))

    def add_float32_panels(self, slab: Any, panel_rows: int, total: Any, overflowed: Any, scratch: Any) -> None:
        """Queue the float32 products of a slab."""
        self._put_plain(PLAIN.add_float32_panels, slab, panel_rows, total, overflowed, Workspace(PLAIN))

    def add_probed_panels(
        self, slab: Any, panel_rows: int, directions: Any, products: Any, sums: Any, scratch: Any
    ) -> None:
        """Queue the products of a slab with probes."""
        self._put_plain(PLAIN.add_probed_panels, slab, panel_rows, directions, products, sums, Workspace(PLAIN))

    def _put_plain(self, operation: Callable[..., None], *arguments: Any) -> None:
        given = _raw(arguments)
        self.put(lambda: operation(*given))


class Readers:
    """Threads that are played: a schedule decides when each task is done. It stands in for ``ThreadPoolExecutor``."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._tasks: list[_Task] = []

    def submit(self, function: Callable[..., object], *arguments: Any) -> _Task:
        """Let a function be called at some moment."""
        self._tasks.append(_Task(self._schedule, lambda: function(*arguments)))
        return self._tasks[-1]

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        """Call nothing more."""
        assert cancel_futures and not wait
        for task in self._tasks:
            task.cancel()


class _Task:
    """A call that is done at some moment, as a future of ``concurrent.futures``."""

    def __init__(self, schedule: Schedule, call: Callable[[], object]) -> None:
        self._schedule = schedule
        self._call: Callable[[], object] | None = call
        self._error: RankMeError | None = None
        queue = schedule.queue()
        self._end = ToyEvent(schedule, queue, 1)
        schedule.put(queue, self._do)

    def _do(self) -> None:
        call, self._call = self._call, None
        try:
            if call is not None:
                call()
        except RankMeError as error:
            self._error = error

    def cancel(self) -> None:
        """Do not call, unless that was done."""
        self._call = None

    def result(self) -> None:
        """Wait for the call, and raise its error."""
        if not self._schedule.leaves_out():
            self._schedule.wait(self._end)
        if self._error is not None:
            raise self._error
