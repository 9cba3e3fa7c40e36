"""The client alone, with a clock that does not run: pages, pauses, waiting, what a board says."""

from __future__ import annotations

import json

import pytest

from tests.tools.safebooru import server
from tests.tools.safebooru.conftest import Build
from tests.tools.safebooru.server import API, HTML, FakeBoard, says, status
from tools.safebooru import board as client
from tools.safebooru.__main__ import address, main
from tools.safebooru.board import KEY, USER, Board, Refused, Unavailable
from utils import UserError


class Clock:
    """Time passes by sleeping alone."""

    def __init__(self) -> None:
        self.time, self.slept = 0.0, []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked(board: FakeBoard, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Board:
    monkeypatch.setattr(client, "BACKOFF_S", 2.0)
    return Board(board.url, pause=1.0, sleep=clock.sleep, now=clock.now)


def ids(found: object) -> list[int]:
    return [post["id"] for post in found]


def nothing(content: bytes) -> None:
    """Checks that take all."""


# ------------------------------------------------------------------------------------------- paging


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 13])
def test_all_pages_beyond_the_pid_limit(board: FakeBoard, asked: Board, count: int) -> None:
    """The board gives 4 posts a page, and nothing beyond its first page number."""
    for i in range(count):
        board.add(1000 - 7 * i, "rei")
    assert ids(asked.posts("rei")) == [1000 - 7 * i for i in range(count)]
    assert len(board.asked) == -(-count // 4) + 1  # a short page may be the board's limit
    assert [tags for _, tags in board.asked[:2]] == ["rei", "rei id:<979"] or count < 4


def test_a_post_that_arrives_meanwhile_shifts_nothing(board: FakeBoard, asked: Board) -> None:
    for i in range(8):
        board.add(100 + i, "rei")
    found = asked.posts("rei")
    first = [next(found) for _ in range(4)]
    board.add(200, "rei")
    assert ids([*first, *found]) == [*range(107, 99, -1)]


@pytest.mark.parametrize("text", ["", "  \n", "[]", '<?xml version="1.0"?><posts count="0"/>'])
@pytest.mark.parametrize("more", [[], ['{"@attributes":{"limit":100,"offset":0,"count":0}}']])
def test_no_posts(board: FakeBoard, asked: Board, text: str, more: list[str]) -> None:
    board.faults[API] = [says((more or [text])[0])]
    assert list(asked.posts("rei")) == []


@pytest.mark.parametrize("one", [True, False])
def test_posts_under_a_key(board: FakeBoard, asked: Board, one: bool) -> None:
    board.add(5, "rei")
    post = board.posts[0]
    body = {"@attributes": {"count": 1}, "post": post if one else [post]}
    board.faults[API] = [says(json.dumps(body))]
    assert ids(asked.posts("rei")) == [5]


def test_a_board_that_ignores_ids_is_not_asked_for_ever(board: FakeBoard, asked: Board) -> None:
    board.add(5, "rei")
    board.always[API] = says(json.dumps(board.posts))
    with pytest.raises(UserError, match="does not know id:<N"):
        list(asked.posts("rei"))
    assert len(board.asked) == 2


# ------------------------------------------------------------------------ pauses and waiting


def test_a_pause_between_any_two_requests(board: FakeBoard, asked: Board, clock: Clock) -> None:
    for i in range(9):
        board.add(100 + i, "rei")
    list(asked.posts("rei"))
    assert len(board.asked) == 4 and clock.slept == [1.0] * 3
    clock.time += 5
    list(asked.posts("rei id:<1"))
    assert clock.slept == [1.0] * 3  # it was long ago


def test_back_off_doubles_and_gives_up(board: FakeBoard, asked: Board, clock: Clock) -> None:
    path = board.add(1, "rei")
    board.always[path] = status(503)
    with pytest.raises(Unavailable, match="it answers 503"):
        asked.file(path[1:], nothing)
    assert clock.slept == [2, 4, 8] and len(board.asked) == client.TRIES


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_obeyed(board: FakeBoard, asked: Board, clock: Clock, code: int) -> None:
    path = board.add(1, "rei")
    board.faults[path] = [status(code, Retry_After="37")]
    assert asked.file(path[1:], nothing) == board.files[path]
    assert clock.slept == [37]


@pytest.mark.parametrize("date", ["soon", "", "-3"])
def test_a_retry_after_that_is_none(
    board: FakeBoard, asked: Board, clock: Clock, date: str
) -> None:
    path = board.add(1, "rei")
    board.faults[path] = [status(429, Retry_After=date)]
    assert asked.file(path[1:], nothing) == board.files[path]
    assert clock.slept == [2]


def test_a_long_retry_after_ends_the_run(board: FakeBoard, asked: Board, clock: Clock) -> None:
    board.always[API] = status(429, Retry_After="7200")
    with pytest.raises(UserError, match=r"left alone for 120\.0 min; the same command goes on"):
        list(asked.posts("rei"))
    assert clock.slept == [] and len(board.asked) == 1


def test_time_outs_and_breaks_are_said(board: FakeBoard, asked: Board) -> None:
    path = board.add(1, "rei")
    board.always[path] = server.stall
    with pytest.raises(Unavailable, match="it does not answer in time"):
        asked.file(path[1:], nothing)
    board.always[path] = server.cut
    with pytest.raises(Unavailable, match="the connection ends early"):
        asked.file(path[1:], nothing)
    board.close()
    with pytest.raises(Unavailable, match="it can't be reached"):
        asked.file(path[1:], nothing)


def test_a_file_without_an_end(
    board: FakeBoard, asked: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = board.add(1, "rei")
    monkeypatch.setattr(client, "MOST_BYTES", 100)
    with pytest.raises(Refused, match="too large: more than"):
        asked.file(path[1:], nothing)


def test_redirects_in_a_circle(board: FakeBoard, asked: Board) -> None:
    path = board.add(1, "rei")
    board.always[path] = server.to(path)
    with pytest.raises(Refused, match="in a circle"):
        asked.file(path[1:], nothing)
    assert len(board.asked) == client.REDIRECTS


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("https://a.example/y", True),
        ("https://A.example:443/y", True),
        ("http://a.example/y", True),
        ("http://a.example:81/y", False),
        ("https://b.a.example/y", False),
        ("https://a.example@b.example/y", False),
        ("ftp://a.example/y", False),
        ("file:///etc/passwd", False),
    ],
)
def test_which_redirects_stay(url: str, stays: bool) -> None:
    assert client.stays("http://a.example/x", url) == stays
    assert not client.stays("https://a.example/x", "http://a.example/x")


# ------------------------------------------------------------------------------------ what it says


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (HTML, "a web page instead of JSON"),
        (says('[{"id": 5,'), "JSON that can't be read"),
        (says("[" * 100_000), "JSON that can't be read"),
        (says(b"\xff\xfe\x00"), "JSON that can't be read"),
        (says('{"success":"false","message":"search down"}'), "search down"),
        (says('<?xml version="1.0"?><response success="false" reason="Overloaded"/>'), "Overload"),
        (says('{"success":false,"message":"no such thing"}'), "no posts, but: .*no such thing"),
        (says('<posts count="3" offset="0"><post id="1"/></posts>'), "no posts, but: <posts"),
        (says("42"), "no posts, but: 42"),
        (says('"authentication required"'), f"wants to know who asks .*{KEY}.*{USER}"),
        (status(401), f"refuses a search .*{KEY}"),
        (status(403), f"refuses a search .*{KEY}"),
        (status(404), "is --base-url right"),
        (status(500), "it answers 500"),
    ],
)
def test_a_search_that_fails_says_why(
    board: FakeBoard, asked: Board, said: server.Fault, error: str
) -> None:
    board.always[API] = said
    with pytest.raises(UserError, match=error) as caught:
        list(asked.posts("rei"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_key_is_shown_only_to_a_board_that_asks(
    board: FakeBoard, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.add(1, "rei")
    monkeypatch.setenv(KEY, "s3cret")
    monkeypatch.setenv(USER, "12")
    build(1, "--dry-run")
    assert board.searches and not any("api_key" in query for query in board.searches)
    board.searches.clear()
    board.key = {"api_key": "s3cret", "user_id": "12"}
    assert "to fetch: 1 pictures" in build(1, "--dry-run")
    assert "api_key" not in board.searches[0]
    assert all(query["api_key"] == "s3cret" for query in board.searches[1:])
    monkeypatch.setenv(KEY, "wr0ng")
    with pytest.raises(UserError, match="wants to know who asks") as caught:
        build(1, "--dry-run")
    assert "wr0ng" not in str(caught.value)


# ----------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "url", ["safebooru.org", "ftp://x", "https://", "http://x:y", "https://u:p@x", "https://x/?q"]
)
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--base-url", url])
    assert "is no address like https://safebooru.org" in capsys.readouterr().err


def test_an_address_may_be_that_of_its_page() -> None:
    assert address("https://x.example/index.php") == address("https://x.example/")
    assert address("https://x.example/booru/") == "https://x.example/booru"


@pytest.mark.parametrize("args", [["--pause", "0.1"], ["--pause", "nan"], ["--per-class", "0"]])
def test_what_is_no_sense_is_refused(args: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(args)
