"""A folder of a bucket and the one of this machine that is like it.

Objects appear whole or not at all, and none is renamed. The order of publishing keeps the bucket a
workdir that any machine can resume: what a stage wrote comes before the record that the stage has
ended (``core.stages``), a checkpoint's checksums after all else, and a file never before an older
one.

The lock of a folder is the object ``.lock``, which only one process can create. Its owner changes
it every few seconds. One that does not change for a minute is that of a process that was killed,
and may be taken over.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.files import holding, write_json
from asesjax.core.signals import check_stop
from asesjax.core.store import FIRST, PATIENCE, Store, each

LOCK = ".lock"
BEAT = 10.0  # seconds between two changes of a lock, and at least between two rounds of publishing
_DEAD = 60.0  # a lock that has not changed for so long has no owner
_SETTLE = 3.0  # until others that take over a lock at the same time have written theirs
_SHARE = 0.1  # of the time, at most, goes into publishing beside the work
_NOT_KEPT = re.compile(r"(^|/)(\.lock|\.[^/]*\.\d+\.tmp)($|/)|\.orbax-checkpoint-tmp")
_RECORD = re.compile(r"(^|/)stages/[^/]*\.json$")
_CHECKPOINT = re.compile(r"(.*checkpoints/step_\d+)/")
_MARK = re.compile(r"(^|/)checkpoints/step_\d+/files\.json$")  # that a checkpoint is whole


class Mirror:
    """A folder of a bucket and the one here that is like it."""

    def __init__(self, url: str):
        self.store = Store(url)
        name, digest = re.sub(r"[^\w.-]+", "-", url)[-60:], hashlib.sha256(url.encode()).hexdigest()
        self._place = _cache() / f"{name}-{digest[:12]}"
        self.folder = self._place / "files"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index_file = self._place / "index.json"
        saved = self._saved()
        # Of each object known to be in the bucket its tag there, and size and time of its copy.
        self._index: dict[str, list] = saved["index"]
        # Of the locks that processes of this mirror hold, or held when they were killed.
        self._tokens: dict[str, str] = saved["tokens"]
        self.scopes: list[str] = []  # folders held, "." for all
        self._locks: dict[str, dict] = {}  # what their locks say
        self._lock_guard = threading.Lock()
        self._changed: set[str] = set()
        self._lost = ""  # who has taken over
        self._fetched = False
        self._guard = threading.RLock()
        self._ending = threading.Event()

    # Reading

    def fetched(self) -> Path:
        """Make the mirror like the bucket, once, unless a run holds it here; return its folder."""
        if not self._fetched:
            with (
                holding(self._file("fetching")),  # for others here that only read
                contextlib.suppress(BlockingIOError),
                holding(self._file("busy"), fcntl.LOCK_NB),
            ):
                self._pull(".", [scope for scope in self._tokens if self._is_own(scope)], FIRST)
            self._fetched = True
        return self.folder

    def _pull(self, scope: str, kept: Sequence[str] = (), patience: float = PATIENCE) -> None:
        """Make a folder of the mirror like that of the bucket, but for those ``kept``: a process of
        this mirror was killed that held them, and what it wrote last is here alone.
        """
        with self._guard:
            there = {name: tag for name, tag in self.store.find(scope, patience).items()
                     if not _NOT_KEPT.search(name)}  # fmt: skip
            whole = {os.path.dirname(name) for name in there if _MARK.search(name)}
            half = {name for name in there
                    if (part := _CHECKPOINT.match(name)) and part[1] not in whole}  # fmt: skip
            here, wanted = self._scan(scope), []
            for name, tag in there.items():
                if any(_inside(name, own) for own in kept):
                    self._index.setdefault(name, [tag, -1, -1])
                elif name in half:
                    self._index[name] = [tag, -1, -1]  # so that who holds the folder removes it
                elif self._index.get(name) != [tag, *here.get(name, ())]:
                    wanted.append(name)
            each(lambda name: self._get(name, there[name], patience), wanted)
            for name in here.keys() - (there.keys() - half):
                if not any(_inside(name, own) for own in kept):
                    self._drop(name)
            for name in [n for n in self._index if _inside(n, scope) and n not in there]:
                del self._index[name]
            self._save()

    def _file(self, name: str) -> Path:
        path = self._place / name
        path.touch()
        return path

    def _scan(self, scope: str) -> dict[str, list[int]]:
        """Return size and time of each file of a folder of the mirror."""
        found = {}
        for folder, _, names in os.walk(self.folder / scope):
            for path in (os.path.join(folder, name) for name in names):
                name = os.path.relpath(path, self.folder)
                if not _NOT_KEPT.search(name):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found[name] = _stat(path)
        return found

    def _get(self, name: str, tag: str, patience: float = PATIENCE) -> None:
        self.store.get(name, self.folder, patience)
        self._index[name] = [tag, *_stat(self.folder / name)]

    def take(self, tokens: Iterable[str], names: Iterable[str]) -> None:
        """Fetch objects that were written, and remove here what was removed there: what process 0
        has ``told``, unless it works in this very folder, where files may be newer by now.
        """
        if not {*tokens}.isdisjoint(self._saved()["tokens"].values()):
            return
        gone = []

        def one(name: str) -> None:
            try:
                self._get(name, "")
            except FileNotFoundError:
                gone.append(name)

        each(one, names)
        for name in gone:
            self._drop(name)

    def _drop(self, name: str) -> None:
        path = self.folder / name
        with contextlib.suppress(OSError):  # the folder has other files
            path.unlink(missing_ok=True)
            while (path := path.parent) != self.folder:
                path.rmdir()

    # Writing

    @contextlib.contextmanager
    def owning(self, scope: str, wait: bool) -> Iterator[None]:
        """Hold a folder of the bucket, and publish what is written into it here."""
        with holding(self._file("busy"), shared=True):
            self.publish()  # of a folder around this one
            if not self.scopes:
                print(f"{self.store.url} is mirrored in {self.folder}", flush=True)
            resumed = self._take_lock(scope, wait)
            self._pull(scope, [scope] if resumed else ())
            self._tokens[scope] = self._locks[scope]["token"]
            self._save()
            self.scopes.append(scope)
            if len(self.scopes) == 1:
                self._ending.clear()
                for work in (self._beat, self._publish_beside):
                    threading.Thread(target=work, name="bucket", daemon=True).start()
            patience = FIRST  # where the block fails, or a signal comes
            try:
                yield
                patience = PATIENCE
            finally:
                try:
                    self.publish(patience)
                    self._leave_lock(scope)
                finally:
                    self.scopes.remove(scope)
                    if not self.scopes:
                        self._ending.set()

    def publish(self, patience: float = PATIENCE, records: bool = True) -> None:
        """Bring what changed in the folders held to the bucket; ``records`` of stages only where no
        stage is at work.
        """
        with self._guard:
            self._check_lost()
            began = time.time_ns()
            here = {name: facts for scope in self.scopes for name, facts in
                    self._scan(scope).items() if facts[1] <= began}  # fmt: skip
            new = [name for name, facts in here.items()
                   if self._index.get(name, [""])[1:] != facts]  # fmt: skip
            new.sort(key=lambda name: here[name][1])
            gone = [name for name in self._index if not (self.folder / name).exists()
                    and any(_inside(name, scope) for scope in self.scopes)]  # fmt: skip
            put = functools.partial(self._put, patience=patience)
            remove = functools.partial(self._remove, patience=patience)
            written, removed = _kinds(new), _kinds(gone)
            each(put, written["checkpoint"])
            for name in (*written["other"], *written["mark"]):
                put(name)
            for name in removed["mark"]:
                remove(name)
            each(remove, (*removed["checkpoint"], *removed["other"]))
            if records:
                for name in written["record"]:
                    put(name)
                for name in removed["record"]:
                    remove(name)
            if new or gone:
                self._save()

    def _put(self, name: str, patience: float) -> None:
        path = self.folder / name
        try:
            facts = _stat(path)
            self._index[name] = [self.store.put(name, path, patience), *facts]
            self._changed.add(name)
        except FileNotFoundError as error:
            if path.exists():  # and was not removed meanwhile
                raise UserError(
                    f"{self.store.url} cannot be written: {error}; is there still a bucket of this "
                    "name?"
                ) from None

    def _remove(self, name: str, patience: float) -> None:
        self.store.remove(name, patience)
        del self._index[name]
        self._changed.add(name)

    def told(self) -> tuple[list[str], list[str]]:
        """Return the tokens of the locks held, and the names of what was published since the last
        call.
        """
        with self._guard:
            names, self._changed = sorted(self._changed), set()
        return [self._tokens[scope] for scope in self.scopes], names

    def _publish_beside(self) -> None:
        pause, failed = BEAT, False
        while not self._ending.wait(pause):
            began = time.monotonic()
            try:
                self.publish(FIRST, records=False)
                failed = False
            except Exception as error:  # tried again, at the latest by the main thread
                if not failed:
                    print(f"warning: {error}; it is tried again", file=sys.stderr, flush=True)
                failed = True
            pause = max(BEAT, (time.monotonic() - began) * (1 / _SHARE - 1))

    def _saved(self) -> dict[str, dict]:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._index_file.read_bytes())
        return {"index": {}, "tokens": {}}

    def _save(self) -> None:
        write_json(self._index_file, {"index": self._index, "tokens": self._tokens})

    # The lock

    def _take_lock(self, scope: str, wait: bool) -> bool:
        """Write the lock of a folder; return whether it was that of this mirror, left by a process
        that was killed. Raises UserError where another run holds the folder, unless ``wait``.
        """
        path = f"{scope}/{LOCK}"
        mine = {"owner": f"{socket.gethostname()}, process {os.getpid()}",
                "token": secrets.token_hex(8), "beat": 0}  # fmt: skip
        resumed = False
        while True:
            there = self.store.read(path)
            if there is None:
                if self.store.write(path, mine, create=True):
                    break
                continue
            owner = there.get("owner", "an unknown program")
            resumed = "token" in there and there["token"] == self._tokens.get(scope)
            if not resumed:
                print(
                    f"{self.store.url} is held by {owner}; it is taken over unless there is a sign "
                    f"of life within {_DEAD:.0f} s", flush=True,
                )  # fmt: skip
                if self._lives(path, there):
                    if wait:
                        continue
                    raise UserError(
                        f"another run is using workdir {self.store.url} ({owner}); wait for it or "
                        "give another --workdir"
                    )
            self.store.write(path, mine)
            time.sleep(0 if resumed else _SETTLE)
            if (self.store.read(path) or {}).get("token") == mine["token"]:
                break
        self._locks[scope] = mine
        return resumed

    def _is_own(self, scope: str) -> bool:
        """Tell whether the lock of a folder is that of this mirror, left by a process."""
        there = self.store.read(f"{scope}/{LOCK}")
        return there is not None and there.get("token") == self._tokens[scope]

    def _lives(self, path: str, before: dict) -> bool:
        end = time.monotonic() + _DEAD
        while time.monotonic() < end:
            check_stop()
            time.sleep(min(1.0, _DEAD / 5))
            now = self.store.read(path)
            if now != before:
                return now is not None
        return False

    def _beat(self) -> None:
        """Show from time to time that the owner of the locks lives, and see whether they are."""
        while not self._ending.wait(BEAT):
            for scope in list(self.scopes):
                with contextlib.suppress(Exception), self._lock_guard:
                    if scope not in self._locks:
                        continue
                    path, mine = f"{scope}/{LOCK}", self._locks[scope]
                    there = self.store.read(path)
                    if there is not None and there.get("token") != mine["token"]:
                        self._lost = there.get("owner", "an unknown program")
                        return
                    mine["beat"] += 1
                    self.store.write(path, mine)

    def _check_lost(self) -> None:
        if self._lost:
            raise UserError(
                f"another run ({self._lost}) has taken over {self.store.url}, where this one had "
                f"shown no sign of life for {_DEAD:.0f} s; nothing more is written there"
            )

    def _leave_lock(self, scope: str) -> None:
        with self._lock_guard:
            self._locks.pop(scope)
            self._tokens.pop(scope)
            self.store.remove(f"{scope}/{LOCK}", FIRST)
            self._save()


def _cache() -> Path:
    """Return the folder of mirrors, one for each process of a run."""
    import jax

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("ASESJAX_CACHE") or Path(base) / "asesjax").absolute()
    number = jax.process_index() if jax.distributed.is_initialized() else 0
    return folder / f"process-{number}" if number else folder


def _inside(name: str, scope: str) -> bool:
    return scope == "." or name.startswith(f"{scope}/")


def _kinds(names: Sequence[str]) -> dict[str, list[str]]:
    """Divide the names of files, in their order."""
    kinds: dict[str, list[str]] = {"record": [], "mark": [], "checkpoint": [], "other": []}
    for name in names:
        if _RECORD.search(name) and "superseded/" not in name:
            kinds["record"].append(name)
        elif _MARK.search(name):
            kinds["mark"].append(name)
        else:
            kinds["checkpoint" if _CHECKPOINT.match(name) else "other"].append(name)
    return kinds


def _stat(path: str | Path) -> list[int]:
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]
