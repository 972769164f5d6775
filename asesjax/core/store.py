"""Objects in a bucket, by fsspec: whole or not at all, with patience where the store fails."""

import contextlib
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from asesjax.core.errors import UserError
from asesjax.core.signals import came, check_stop

T = TypeVar("T")
FIRST, PATIENCE = 30.0, 600.0  # seconds of failures: at the first contact, and later
_AT_ONCE = 8  # transfers
_LONGEST_PAUSE = 15.0


class Store:
    """The objects below an address, by their names from there. Methods raise UserError where the
    store fails for longer than ``patience`` seconds, or refuses.
    """

    def __init__(self, url: str):
        try:
            import fsspec

            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"{url} cannot be opened: {str(error).strip() or type(error).__name__}; gs:// and "
                "s3:// need pip install 'asesjax[buckets]'"
            ) from None
        # What it logs, tracebacks included, is said in one line here.
        package = type(self._fs).__module__.partition(".")[0]
        logging.getLogger(package).setLevel(logging.CRITICAL)
        self.url, self._root = url, root.rstrip("/")
        self.alone = ""  # the name of the object where the address is that of one alone

    def _path(self, name: str) -> str:
        return self._root if self.alone else os.path.normpath(f"{self._root}/{name}")

    def find(self, folder: str, patience: float) -> dict[str, str]:
        """Return the names of all objects below a folder, "." for all, each with what differs
        between its contents.
        """

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                return self._fs.find(self._path(folder), detail=True)
            return {}

        found = self._patiently(find, patience)
        if list(found) == [self._root]:
            self.alone = self._root.rpartition("/")[2]
            return {self.alone: _tag(found[self._root])}
        named = {path[len(self._root) + 1 :]: _tag(facts) for path, facts in found.items()}
        # Other names are those of folders, or lead out of them.
        return {name: tag for name, tag in named.items() if os.path.normpath(name) == name
                and name.split("/")[0] != ".."}  # fmt: skip

    def get(self, name: str, folder: Path, patience: float) -> None:
        """Fetch an object into a file of this name in ``folder``. Raises FileNotFoundError, and
        then has made no folder, not for a moment.
        """
        target = folder / name
        temporary = folder / f".{secrets.token_hex(8)}.{os.getpid()}.tmp"
        try:
            self._patiently(lambda: self._fs.get_file(self._path(name), str(temporary)), patience)
            while temporary.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # removed by another process, as empty
                    os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, name: str, file: Path, patience: float) -> str:
        """Write a file as an object; return what ``find`` says of it. Raises FileNotFoundError."""

        def put() -> str:
            self._fs.put_file(str(file), self._path(name))
            return _tag(self._fs.info(self._path(name)))

        return self._patiently(put, patience)

    def remove(self, name: str, patience: float) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self._fs.rm_file(self._path(name)), patience)

    def read(self, name: str) -> dict | None:
        """Read a JSON object; none where it is absent, an empty one where it is something else."""
        try:
            return json.loads(self._patiently(lambda: self._fs.cat_file(self._path(name))))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}

    def write(self, name: str, facts: dict, create: bool = False) -> bool:
        """Write a JSON object; to ``create`` it is to return False where there is one already."""
        mode = {"mode": "create"} if create else {}
        content = json.dumps(facts).encode()
        try:
            self._patiently(lambda: self._fs.pipe_file(self._path(name), content, **mode))
        except FileExistsError:
            return False
        except FileNotFoundError as error:
            raise UserError(
                f"{self.url} cannot be written: {error}; is there a bucket of this name?"
            ) from None
        return True

    def _patiently(self, do: Callable[[], T], patience: float = PATIENCE) -> T:
        end, pause = time.monotonic() + patience, 0.5
        while True:
            try:
                return do()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # each store has its own
                lines = str(error).strip().splitlines()
                why = f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
                refused = isinstance(error, PermissionError)
                stops = patience > FIRST and came()
                if stops:
                    check_stop()
                if refused or stops or time.monotonic() + pause > end:
                    tried = "" if refused else f", tried for {patience:.0f} s"
                    raise UserError(
                        f"{self.url} does not answer as it should ({why}){tried}; look at the "
                        "address, the access to it and the network, and run the same command again"
                    ) from None
            if pause == 0.5 and threading.current_thread() is threading.main_thread():
                print(f"{self.url} does not answer as it should ({why}); it is tried again for "
                      f"{patience:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def each(do: Callable[[str], Any], names: Iterable[str]) -> None:
    """Do something for each name, several at once."""
    names = list(names)
    if not names:
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            list(pool.map(do, names))
        except UserError:
            pool.shutdown(cancel_futures=True)
            check_stop()
            raise


def _tag(facts: dict[str, Any]) -> str:
    """Return what differs between contents of an object, whatever the store calls it."""
    for name in ("ETag", "etag", "md5Hash", "generation", "created", "mtime", "LastModified"):
        if facts.get(name):
            return str(facts[name])
    return str(facts.get("size"))
