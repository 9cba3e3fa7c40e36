"""A board of the Gelbooru 0.2 family, asked politely: one request at a time, a pause between two,
what it says about waiting obeyed, and no more requests than were allowed.

Its API: https://safebooru.org/index.php?page=help&topic=dapi
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.util import Retry

from tools.safebooru.post import id_of
from utils import UserError, minutes

USER_AGENT = "vit-finetune/0.1 (tools.safebooru, a small set of pictures to train a network on)"
KEY, USER = "BOORU_API_KEY", "BOORU_USER_ID"  # the environment's
PAGE = 100  # posts a request; boards allow no more
TRIES = 4
AGAIN = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
BACKOFF_S, LONGEST_WAIT_S = 2.0, 600.0
TIMEOUT_S = (10.0, 30.0)  # to connect, and without a byte
LONGEST_S = 300.0  # one answer, however slowly it drips
MOST_BYTES = 64_000_000  # of one answer
REDIRECTS = 5


class Unavailable(UserError):
    """What a board did not give though it was asked several times; it may another time."""


class Refused(UserError):
    """What a board won't give however often it is asked."""


class SentOn(Refused):
    """A redirect to another host."""


class AsksForAKey(Refused):
    """A search that a board wants to know the asker of."""


class Again(Exception):
    """An answer that is none; asking once more may help, unless it is `lasting` and the same."""

    def __init__(self, fault: str, lasting: bool = False) -> None:
        super().__init__(fault)
        self.lasting = lasting


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Board:
    """A board at an address, and a key should it ask for one; `sleep` and `now` are the clock's."""

    def __init__(
        self,
        base_url: str,
        pause: float = 1.0,
        most_requests: int | None = None,
        key: Mapping[str, str] | None = None,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.pause, self.most_requests, self.key = pause, most_requests, key or {}
        self.shown_key: Mapping[str, str] = {}  # once the board has asked for it
        self.sleep, self.now = sleep, now
        self.requests = 0
        self.free_at = now()
        self.session = requests.Session()
        self.session.headers["User-Agent"] = USER_AGENT
        self.session.auth = lambda request: request  # else a password for it in ~/.netrc is sent

    def page_of(self, post: int) -> str:
        """The address of a post's page, for people."""
        return f"{self.base_url}/index.php?page=post&s=view&id={post}"

    def posts(self, query: str) -> Iterator[object]:
        """The posts of a search, the newest first.

        Each page is asked for by the id that it lies below, not by its number (pid): boards refuse
        high numbers, and a post that arrives meanwhile would shift all pages.
        """
        below: int | None = None
        while page := self._page(query if below is None else f"{query} id:<{below}"):
            ids = [id for raw in page if (id := id_of(raw)) is not None]
            if not ids or (below is not None and max(ids) >= below):
                what = "gives posts without an id" if not ids else "does not know id:<N"
                raise UserError(f"{self.base_url} {what}, so there is no way to page through it")
            yield from page
            below = min(ids)

    def _page(self, tags: str) -> list[object]:
        """The posts of one page; none where there are no more."""
        try:
            return self._searched(tags)
        except AsksForAKey:
            if not self.key or self.shown_key:
                raise
            self.shown_key = self.key
            return self._searched(tags)
        except SentOn as error:
            raise Refused(f"{error}; --base-url takes the board's own address") from None
        except Unavailable as error:
            raise Unavailable(
                f"{self.base_url} does not answer a search ({error}); the same command goes on "
                "another time"
            ) from None

    def _searched(self, tags: str) -> list[object]:
        found: list[object] = []

        def read(body: bytes) -> None:
            found[:] = _posts_in(body)

        params = {"page": "dapi", "s": "post", "q": "index", "json": "1", "tags": tags}
        params |= {"pid": "0", "limit": str(PAGE), **self.shown_key}
        answer = self._ask(f"{self.base_url}/index.php", params, read)
        if answer.status in (401, 403):
            raise AsksForAKey(f"{self.base_url} refuses a search ({answer.status}): {KEY_WANTED}")
        if answer.status != 200:
            raise Refused(
                f"{self.base_url} answers {answer.status} to a search: is --base-url right? It is "
                "the address before /index.php"
            )
        return found

    def file(self, path: str, check: Callable[[bytes], None]) -> bytes:
        """A file's bytes, which `check` does not refuse by Again.

        Raises Refused where there is no such file, Unavailable where it can't be had now.
        """
        answer = self._ask(f"{self.base_url}/{path}", None, check)
        if answer.status in (404, 410):
            raise Refused(f"gone: the board answers {answer.status}")
        if answer.status != 200:
            raise Unavailable(f"it answers {answer.status}")
        return answer.body

    # ------------------------------------------------------------------------------- one request

    def _ask(
        self, url: str, params: Mapping[str, str] | None, check: Callable[[bytes], None]
    ) -> Answer:
        """An answer that is no passing fault, and no other than `check` takes.

        Raises Unavailable where it fails each time, Refused where it is wrong in a lasting way.
        """
        wrong, fault = "", ""
        for attempt in range(TRIES):
            wait = BACKOFF_S * 2**attempt
            try:
                answer = self._followed(url, params)
                if answer.status == 200:
                    check(answer.body)
                if answer.status not in AGAIN:
                    return answer
                fault = f"it answers {answer.status}"
                wait = max(wait, self._asked_to_wait(answer))
            except requests.RequestException as error:
                fault = _in_words(error)
            except Again as error:
                fault = str(error)
                if error.lasting and fault == wrong:
                    raise Refused(f"wrong file: {fault}") from None
                wrong = fault
            if attempt < TRIES - 1:
                self.sleep(wait)
        raise Unavailable(fault)

    def _asked_to_wait(self, answer: Answer) -> float:
        """The seconds that a board wants to be left alone for."""
        try:
            wait = Retry().parse_retry_after(answer.headers.get("Retry-After", "0"))
        except Exception:  # urllib3 has one of its own for what is neither seconds nor a date
            wait = 0.0
        if wait > LONGEST_WAIT_S:
            raise UserError(
                f"{self.base_url} asks to be left alone for {minutes(wait)}; the same command goes "
                "on after that"
            )
        return wait

    def _followed(self, url: str, params: Mapping[str, str] | None) -> Answer:
        """An answer, after redirects that stay with the board."""
        for _ in range(REDIRECTS):
            answer = self._once(url, params)
            to = answer.headers.get("Location")
            if answer.status not in (301, 302, 303, 307, 308) or not to:
                return answer
            before, url, params = url, urljoin(url, to), None  # they are in the new address
            if not stays(before, url):
                host = urlsplit(url).netloc.rpartition("@")[2][:100]
                raise SentOn(f"redirect: {self.base_url} sends on to {host}, another host")
        raise Refused("redirect: in a circle")

    def _once(self, url: str, params: Mapping[str, str] | None) -> Answer:
        if self.most_requests is not None and self.requests >= self.most_requests:
            raise UserError(
                f"{self.requests:,} requests were made, which is --most-requests; the same command "
                "goes on"
            )
        if (wait := self.free_at - self.now()) > 0:
            self.sleep(wait)
        self.requests += 1
        try:
            end = self.now() + LONGEST_S
            with self.session.get(
                url, params=params, stream=True, timeout=TIMEOUT_S, allow_redirects=False
            ) as answer:
                return Answer(answer.status_code, answer.headers, self._body(answer, end))
        finally:
            self.free_at = self.now() + self.pause

    def _body(self, answer: requests.Response, end: float) -> bytes:
        body = bytearray()
        for chunk in answer.iter_content(1 << 16):
            body += chunk
            if len(body) > MOST_BYTES:
                raise Refused(f"too large: more than {MOST_BYTES / 1e6:,.0f} MB")
            if self.now() > end:
                raise requests.Timeout
        return bytes(body)


def _in_words(error: requests.RequestException) -> str:
    """A fault of the network; the library's own words would show the address, key and all."""
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        return "it does not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "it can't be reached safely: its certificate is not valid"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ends early"
    if isinstance(error, requests.ConnectionError):
        return "it can't be reached"
    return f"the connection fails ({type(error).__name__})"


def stays(one: str, other: str) -> bool:
    """Whether an address stays with a host; the step from http to https does, the one back not."""
    a, b = urlsplit(one), urlsplit(other)
    if a.hostname != b.hostname or b.scheme not in ("http", "https"):
        return False
    ports = {"http": 80, "https": 443}
    same = (a.port or ports.get(a.scheme), a.scheme) == (b.port or ports[b.scheme], b.scheme)
    return same or (
        (a.scheme, b.scheme) == ("http", "https") and {a.port, b.port} <= {None, 80, 443}
    )


# -------------------------------------------------------------------------------- what it answers


KEY_WANTED = (
    "where it asks for a key, your account's settings there show one; put it into the environment "
    f"as {KEY}, and your user number as {USER}"
)


def _posts_in(body: bytes) -> list[object]:
    """The posts of an answer to a search: no body, a list, or a list under `post`.

    Raises Again for what a board answers in passing, Refused for what it says no to.
    """
    text = body.decode("utf-8", "replace").strip()
    if not text or re.match(r'(<\?xml[^>]*>\s*)?<posts[^>]*count="0"', text):
        return []
    if text.startswith("<"):
        if re.match(r"<(!doctype )?html", text, re.IGNORECASE):
            raise Again("it answers with a web page instead of JSON")
        raise _no(re.sub(r"<\?.*?\?>", "", text).strip())
    try:
        answer: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Again("it answers with JSON that can't be read") from None
    if isinstance(answer, dict) and "post" in answer:
        answer = answer["post"]
    elif isinstance(answer, dict) and "@attributes" in answer:
        return []  # as Gelbooru's own says that there are none
    if isinstance(answer, dict) and id_of(answer) is not None:
        return [answer]
    if isinstance(answer, list):
        return answer
    raise _no(text)


def _no(said: str) -> Refused | Again:
    """The error for an answer that holds no posts but says something."""
    words = said if len(said) < 200 else said[:200] + " ..."
    words = " ".join(re.sub(r"[^ -~]", " ", words).split())
    if re.search(r"authenticat|api.?key|log.?in", said, re.IGNORECASE):
        return AsksForAKey(f"the board wants to know who asks ({words}): {KEY_WANTED}")
    if re.search(r"search.{0,20}down|overload|try again|busy|limit", said, re.IGNORECASE):
        return Again(f"it says: {words}")
    return Refused(f"the board answers a search with no posts, but: {words}")
