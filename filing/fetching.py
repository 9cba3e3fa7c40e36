"""A file from an address, going on where an earlier try broke off."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import requests

from utils import UserError, check_disk, progress_bar

DOWNLOAD_TRIES = 4
DOWNLOAD_TIMEOUT_S = 30
CHUNK = 1 << 18


def download(
    url: str, path: Path, check: Callable[[Path], object] | None = None, leave: bool = True
) -> None:
    """Fetch `url` to `path`, going on where an earlier try broke off; its bar may be left to see.

    Nothing partial is ever named `path`: `check` reads the finished file before it gets its name
    and raises where it is wrong; such a file is removed. Raises UserError where the address can't
    be reached or the file is not there.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(DOWNLOAD_TRIES):
        try:
            _fetch(url, part, leave)
            break
        except requests.HTTPError as error:
            raise UserError(f"{url}: the server answered {error.response.status_code}") from None
        except (requests.RequestException, ConnectionError) as error:
            if attempt == DOWNLOAD_TRIES - 1:
                raise UserError(
                    f"{url} can't be reached ({type(error).__name__}); without a network, fetch "
                    f"it elsewhere and put it at {path}"
                ) from None
            time.sleep(0.2 * 2**attempt)
    version_of(part).unlink(missing_ok=True)
    if check is not None:
        try:
            check(part)
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                part.unlink()
            raise
    os.replace(part, path)


def version_of(part: Path) -> Path:
    """The file that says of which version of the address's file a partial one is the beginning."""
    return part.with_name(part.name + ".version")


def _fetch(url: str, part: Path, leave: bool) -> None:
    """One try: ask for what is missing of `part`, which is the beginning of one version of the
    file; a server that can't resume, or has another by now, sends it all (RFC 9110, 13.1.5)."""
    version = version_of(part).read_text() if version_of(part).exists() else ""
    have = part.stat().st_size if part.exists() and version else 0
    headers = {"Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=DOWNLOAD_TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            total = int(answer.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if total == have:
                return
            version_of(part).unlink()  # not a beginning of this file: start again
            raise requests.ConnectionError("the partial file does not belong to this address")
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        if resumed and _version(answer) not in ("", version):  # it took no notice of If-Range
            version_of(part).unlink()
            raise requests.ConnectionError("the file is another by now")
        start = have if resumed else 0
        length = int(answer.headers.get("Content-Length", 0))
        if length:
            check_disk(part.parent, length, str(part))
        with (
            open(part, "ab" if resumed else "wb") as file,
            progress_bar(
                leave=leave,
                total=start + length or None,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=part.stem,
            ) as bar,
        ):
            version_of(part).write_text(_version(answer))  # behind what opening has emptied
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if length and part.stat().st_size != start + length:
            raise requests.ConnectionError("the connection ended early")


def _version(answer: requests.Response) -> str:
    """What tells an address's file from a later one, where the server says it."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
