"""A bucket of Google Cloud Storage, through its JSON interface: https://cloud.google.com/storage/docs/json_api/v1."""

import base64
import datetime
import errno
import hashlib
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from absl import logging

from aa_flax.alive import alive
from aa_flax.json_values import to_json
from aa_flax.runs.buckets.store import BucketError, Object, Refused

EMULATOR = "STORAGE_EMULATOR_HOST"
"""The variable that names a stand-in for Google's servers; programs for Cloud Storage agree on it."""

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds between two tries
_AGAIN = frozenset((408, 429, 500, 502, 503, 504))
"""Statuses after which the same request may succeed: https://cloud.google.com/storage/docs/retry-strategy."""


class GoogleStore:
    """The objects of a bucket, see `aa_flax.runs.buckets.store.Store`.

    Requests that fail for a reason that may pass are repeated for a time. A writer whose first try had succeeded
    without an answer is not refused by its own object: that has its content.

    Args:
        bucket: the name.
        patience: seconds after which a request is not repeated.
        sleep: how to wait.
    """

    def __init__(self, bucket: str, patience: float = 60.0, sleep: Callable[[float], None] = time.sleep) -> None:
        self._bucket, self._patience, self._sleep = bucket, patience, sleep
        self._host = os.environ.get(EMULATOR, "").rstrip("/")
        if self._host and "://" not in self._host:
            self._host = f"http://{self._host}"
        self._credentials = None if self._host else _credentials(bucket)
        self._host = self._host or "https://storage.googleapis.com"
        self._of_thread = threading.local()

    def read(self, name: str) -> bytes:
        """Return the content of an object."""
        answer, _ = self._ask("GET", f"o/{quote(name, safe='')}", {"alt": "media"}, missing=name)
        return answer.content

    def look(self, name: str) -> tuple[Object | None, float]:
        """Return the description of an object and the server's time."""
        answer, _ = self._ask("GET", f"o/{quote(name, safe='')}", {}, accepted=(404,))
        now = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        return (None if answer.status_code == 404 else _object(answer.json())), now

    def write(self, name: str, content: bytes, generation: int | None = None) -> Object:
        """Write an object as a whole."""
        boundary = uuid.uuid4().hex
        about = to_json({"name": name, "contentType": "application/octet-stream"})
        body = b"".join(
            [
                f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{about}\r\n".encode(),
                f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
                content,
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        wanted = {} if generation is None else {"ifGenerationMatch": str(generation)}
        answer, tries = self._ask(
            "POST",
            "o",
            {"uploadType": "multipart", **wanted},
            upload=True,
            accepted=(412,),
            data=body,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
        )
        if answer.status_code != 412:
            return _object(answer.json())
        there, _ = self.look(name)
        if tries > 1 and there is not None and there.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return there  # the try before, whose answer was lost
        raise Refused(f"gs://{self._bucket}/{name} was written by another process")

    def list(self, prefix: str, deep: bool = True) -> tuple[list[Object], list[str]]:
        """Return the objects whose names begin with a prefix, and the folders."""
        objects, folders, page = [], [], ""
        while True:
            asked = {"prefix": prefix, **({} if deep else {"delimiter": "/"}), **({"pageToken": page} if page else {})}
            found = self._ask("GET", "o", asked)[0].json()
            objects += [_object(each) for each in found.get("items", ())]
            folders += found.get("prefixes", ())
            page = found.get("nextPageToken", "")
            if not page:
                return sorted(objects, key=lambda each: each.name), sorted(folders)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one."""
        self._ask("DELETE", f"o/{quote(name, safe='')}", {}, accepted=(404,))

    def copy(self, name: str, other: str) -> None:
        """Copy an object inside the bucket."""
        to = f"o/{quote(name, safe='')}/rewriteTo/b/{self._bucket}/o/{quote(other, safe='')}"
        token = ""
        while True:
            done = self._ask("POST", to, {"rewriteToken": token} if token else {}, missing=name)[0].json()
            token = done.get("rewriteToken", "")
            if done.get("done", True):
                return

    def _ask(
        self,
        method: str,
        path: str,
        parameters: dict[str, str],
        *,
        upload: bool = False,
        accepted: tuple[int, ...] = (),
        missing: str | None = None,
        **more: Any,
    ) -> tuple[Any, int]:
        """Return the answer to a request, and how often it was made; raise BucketError for what is not accepted."""
        url = f"{self._host}{'/upload' if upload else ''}/storage/v1/b/{self._bucket}/{path}"
        began, tries, pause = time.monotonic(), 0, _FIRST_PAUSE
        while True:
            tries += 1
            answer, reason = self._try(method, url, params=parameters, timeout=_TIMEOUT, **more)
            if answer is not None:
                status = answer.status_code
                if status < 300 or (status in accepted and not _of_bucket(answer)):
                    return answer, tries
                if status not in _AGAIN:
                    raise self._error(answer, missing)
                reason = f"status {status}"
            alive()  # the watchdog is told that this is no hang, and not for longer than the patience lasts
            if time.monotonic() - began + pause > self._patience:
                raise BucketError(f"gs://{self._bucket}: {method} failed {tries} times, at last with {reason}")
            logging.log_every_n_seconds(logging.INFO, "gs://%s: %s; trying again", 10, self._bucket, reason)
            self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self, method: str, url: str, **more: Any) -> tuple[Any, str]:
        """Return an answer and "", or None and what went wrong on the way to it."""
        import requests

        try:
            return self._session().request(method, url, **more), ""
        except requests.RequestException as error:
            return None, type(error).__name__
        except Exception as error:  # of google.auth, of which the session is
            if not type(error).__module__.startswith("google.auth"):
                raise
            raise BucketError(
                f"gs://{self._bucket}: the credentials are not accepted: {' '.join(str(error).split())[:200]}",
                errno.EACCES,
            ) from None

    def _session(self) -> Any:
        """Return this thread's connection."""
        if not hasattr(self._of_thread, "session"):
            if self._credentials is None:
                import requests

                self._of_thread.session = requests.Session()
            else:
                from google.auth.transport.requests import AuthorizedSession

                self._of_thread.session = AuthorizedSession(self._credentials)
        return self._of_thread.session

    def _error(self, answer: Any, missing: str | None) -> OSError:
        status = answer.status_code
        if status == 404 and missing is not None and not _of_bucket(answer):
            return FileNotFoundError(errno.ENOENT, "no such object", f"gs://{self._bucket}/{missing}")
        if status == 404:
            return BucketError(f"gs://{self._bucket}: there is no such bucket", errno.ENOENT)
        if status in (401, 403):
            return BucketError(f"gs://{self._bucket}: access is denied: {_told(answer)}", errno.EACCES)
        return BucketError(f"gs://{self._bucket}: status {status}: {_told(answer)}")


def _credentials(bucket: str) -> Any:
    """Return the credentials of this machine or user, as Google's libraries look for them."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except GoogleAuthError:
        raise BucketError(
            f"gs://{bucket}: no credentials were found; `gcloud auth application-default login` makes some, or "
            "GOOGLE_APPLICATION_CREDENTIALS names their file",
            errno.EACCES,
        ) from None


def _object(values: dict[str, Any]) -> Object:
    md5 = values.get("md5Hash", "")
    return Object(
        values["name"],
        int(values["generation"]),
        int(values["size"]),
        base64.b64decode(md5).hex(),
        datetime.datetime.fromisoformat(values["updated"]).timestamp(),
    )


def _of_bucket(answer: Any) -> bool:
    """Return whether a 404 is about the bucket and not about an object."""
    return answer.status_code == 404 and "bucket does not exist" in _told(answer).lower()


def _told(answer: Any) -> str:
    """Return what an answer says in words."""
    try:
        return " ".join(str(answer.json()["error"]["message"]).split())[:200]
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.text.split())[:200]
