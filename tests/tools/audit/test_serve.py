"""The audit served: what is refused, what is kept, and training again."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from audit.findings import AUDIT, write_audit
from inspection.record import read_run
from layout.decisions import Decision, read_decisions, write_decisions
from tests.helpers import REPO
from tests.tools.audit.helpers import findings_of, set_of
from tests.tools.audit.test_page import CURRENT
from tests.tools.helpers import make_run
from tools.audit import __main__ as audit
from tools.audit import again
from tools.audit.about import held
from tools.audit.again import Training, compared
from tools.audit.page import write_page
from tools.audit.serve import Desk, Server
from utils import UserError

ROWS = [
    ["val", f"val/{label}/{i:02}.png", label, label if i % 2 else "red", 0.9, 0.9]
    for label in ("blue", "green")
    for i in range(4)
]
# Leaves a run as training.py would: every picture right, by the labels that were decided.
STUB = """
import csv, shutil, sys, time
from pathlib import Path
words = dict(w.split("=", 1) for w in sys.argv if "=" in w)
old = Path(words["train.from_run"])
print("token cache: all there", flush=True)
if Path("fail").exists():
    print("error: the classes are gone", file=sys.stderr)
    raise SystemExit(2)
try:
    while Path("wait").exists():
        time.sleep(0.02)
except KeyboardInterrupt:
    raise SystemExit("stopped; go on with: python training.py")
new = shutil.copytree(old, old.parent / words["train.run_name"])
labels = {r["path"]: r for r in csv.DictReader(open(words["train.labels"]))}
rows = list(csv.DictReader(open(old / "predictions.csv")))
with open(new / "predictions.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    for row in rows:
        said = labels.get(row["path"], {"decision": "keep"})
        if said["decision"] == "leave out":
            continue
        row["label"] = said["label"] if said["decision"] == "relabel" else row["label"]
        row["predicted"] = row["label"]
        writer.writerow(row)
print("done", flush=True)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run and its audit, the working folder; a stub for training.py."""
    monkeypatch.chdir(tmp_path)
    root = set_of(tmp_path / "pets")
    run = make_run(tmp_path / "logs" / "tiny", ROWS, ["blue", "green", "red"], root)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("log_path: logs", f"log_path: {run.parent}"))
    folder = run.parent / "audit-tiny"
    folder.mkdir()
    findings = findings_of(root)
    write_audit(folder / AUDIT, findings.suspects)
    write_page(folder, findings, run=run)
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(again, "TRAINING", tmp_path / "stub.py")
    return folder


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    server = Server(Desk(home))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    server.desk.training.stop()
    thread.join()


def ask(
    server: Server, path: str, body: Any = None, without: str = "", **changes: str
) -> tuple[int, dict[str, Any]]:
    headers = {"Host": f"127.0.0.1:{server.server_port}", "X-Audit-Token": server.token}
    if body is not None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    headers.pop(without, None)
    line = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    line.putrequest("GET" if body is None else "POST", path, skip_host=True)
    for name, value in headers.items():
        line.putheader(name, value)
    if body is not None and "Content-Length" not in headers:
        line.putheader("Content-Length", str(len(body)))
    line.endheaders(body)
    answer = line.getresponse()
    text = answer.read()
    line.close()
    return answer.status, json.loads(text) if text.startswith(b"{") else {"page": text.decode()}


ONE = {"path": "train/blue/00.png", "decision": "relabel", "label": "green"}


def test_the_page_needs_the_whole_address(server: Server) -> None:
    where = urlsplit(server.address)
    assert where.hostname == "127.0.0.1"
    status, found = ask(server, f"{where.path}?{where.query}", without="X-Audit-Token")
    assert status == 200 and f'content="{server.token}"' in found["page"]
    for path in ("/", "/?token=", "/?token=wrong"):
        status, found = ask(server, path)
        assert status == 403 and "whole address" in found["error"]


@pytest.mark.parametrize(
    ("status", "said", "asked"),
    [
        (403, "whole address", {"without": "X-Audit-Token"}),
        (403, "whole address", {"X_Audit_Token": "\u00e9"}),
        (403, "not the address", {"Host": "evil.example"}),
        (403, "not the address", {"without": "Host"}),
        (403, "another page", {"Origin": "https://evil.example"}),
        (403, "another page", {"Origin": "null"}),
        (400, "is JSON", {"Content_Type": "text/plain"}),
        (413, "more than 65536 bytes", {"Content_Length": "70000"}),
        (400, "is JSON", {"Content_Length": "-1"}),
        (400, "JSON object", {"body": b"[1]"}),
        (400, "JSON object", {"body": b"[" * 60000}),
        (400, "has a path", {"body": {"path": 3, "label": "", "decision": "keep"}}),
        (400, "is a text, or null", {"body": {**ONE, "decision": 1}}),
        (400, "none of relabel", {"body": {**ONE, "decision": "burn"}}),
        (400, "no class of this audit", {"body": {**ONE, "label": "cat"}}),
        (400, "no path below", {"body": {**ONE, "path": "../../etc/passwd"}}),
        (400, "is not in", {"body": {**ONE, "path": "train/blue/none.png"}}),
        (400, "is not in", {"body": {**ONE, "path": "a\nb,c\0"}}),
        (400, "is no text", {"body": {**ONE, "path": "\ud800"}}),
        (400, "is no text", {"body": {**ONE, "decision": "keep", "label": "\udfff"}}),
        (400, "is no address", {"path": "http://[x"}),
        (404, "no such page", {"path": "/../secret"}),
    ],
)
def test_what_is_refused(server: Server, status: int, said: str, asked: dict[str, Any]) -> None:
    given = {"path": "/decide", "body": ONE, **asked}
    assert ask(server, **given)[0] == status and said in ask(server, **given)[1]["error"]
    assert not server.desk.file.exists() and not server.desk.decisions


def test_each_decision_is_kept_at_once(server: Server) -> None:
    assert ask(server, "/decide", ONE) == (200, {"decided": 1})
    assert read_decisions(server.desk.file) == {ONE["path"]: Decision("relabel", "green")}
    other = "train/blue/01.png"
    ask(server, "/decide", {**ONE, "path": other, "decision": "leave out", "label": ""})
    ask(server, "/decide", {**ONE, "decision": None, "label": ""})
    assert read_decisions(server.desk.file) == {other: Decision("leave out")}
    again_there = Desk(server.desk.folder)
    assert ask(server, "/decisions")[1]["decisions"] == json.loads(json.dumps(again_there.listed()))


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET /decisions HTTP/1.1\r\n\r\n"])
def test_one_who_goes_away_is_nobody_s_traceback(
    server: Server, sent: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.server_port)) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.sendall(sent)
    assert ask(server, "/decisions")[0] == 200
    assert capsys.readouterr().err == ""


def test_decide_and_train_again_in_a_browser(browser: Any, server: Server) -> None:
    page = browser.new_context().new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server.address)
    page.click("#again")
    page.wait_for_selector("#state:has-text('nothing is decided')")
    said.clear()  # the browser tells of the refusal
    page.keyboard.press("Tab")
    page.locator(f"[data-path='{page.evaluate(CURRENT)}']").focus()
    for key in ("Enter", "x", "k", "u"):
        page.keyboard.press(key)
    page.click("#again")
    page.wait_for_selector("#scores .big")
    scores = page.evaluate("[...document.querySelectorAll('#scores b')].map(b => b.textContent)")
    assert scores == ["0.500", "1.000"] and "done in" in page.inner_text("#state")
    assert "On the 8 held-out pictures whose label stands: 4 right only now" in page.inner_text(
        "#told"
    )
    decided = read_decisions(server.desk.file)
    assert [tuple(d) for d in decided.values()] == [("relabel", "green"), ("leave out", "")]
    page.reload()
    page.wait_for_selector("#scores .big")
    assert page.inner_text("#count").startswith("2 of 6 decided")
    assert said == []
    page.context.close()


def test_training_waits_for_the_last_decision(browser: Any, server: Server) -> None:
    page = browser.new_context().new_page()
    own, listed = server.desk.decide, server.desk.listed

    def slow(*words: Any) -> None:
        time.sleep(0.3)
        own(*words)

    def late() -> list[Any]:
        time.sleep(1)
        return listed()

    server.desk.decide, server.desk.listed = slow, late  # type: ignore[method-assign]
    page.goto(server.address)
    page.keyboard.press("x")  # before it is known what was decided
    page.keyboard.press("x")
    page.click("#again")
    page.wait_for_selector("#scores .big")
    assert len(read_decisions(server.desk.folder / "tiny-relabelled.csv")) == 2
    page.context.close()


def finished(training: Training) -> dict[str, Any]:
    ends = time.monotonic() + 30
    while (found := training.status())["state"] == "running" and time.monotonic() < ends:
        time.sleep(0.02)
    return found


def test_what_training_is_told_and_one_at_a_time(home: Path) -> None:
    training, run = Desk(home).training, home.parent / "tiny"
    with pytest.raises(UserError, match="nothing is decided yet"):
        training.start({})
    wanted = {"val/blue/01.png": Decision("leave out"), "train/x": Decision("keep")}
    Path("wait").touch()
    training.start(wanted)
    assert training.status()["state"] == "running"
    with pytest.raises(UserError, match="a training runs already"):
        training.start(wanted)
    labels = home / "tiny-relabelled.csv"
    assert training.process is not None and training.process.args[2:] == [  # type: ignore[index]
        "--config",
        str(run / "config.yaml"),
        "train.from_checkpoint=null",
        f"train.from_run={run}",
        f"train.labels={labels}",
        "train.on_bad_image=skip",
        "train.run_name=tiny-relabelled",
        *again.QUICK,
    ]
    assert read_decisions(labels) == wanted
    Path("wait").unlink()
    assert finished(training)["state"] == "done"
    training.start(wanted)
    assert "tiny-relabelled-2; its report: python -m" in finished(training)["said"][-1]


def test_decisions_go_onto_those_of_the_run_and_the_overrides_stay(home: Path) -> None:
    run, before = home.parent / "tiny", Path("before.csv").absolute()
    kept, left = "val/blue/02.png", "val/green/02.png"
    carried_out = {"val/blue/moved.png": Decision("leave out")}
    rows = {kept: Decision("relabel", "red"), left: Decision("leave out")}
    write_decisions(before, rows | carried_out)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("labels: null", f"labels: {before}"))
    overrides = ["train.seed=7", "train.checkpoint=others.safetensors"]
    page = write_page(home, findings_of(Path("pets").absolute()), run, overrides=overrides)
    assert json.dumps(left) in page.read_text()
    training = Desk(home).training
    training.start({kept: Decision("keep"), "val/blue/01.png": Decision("leave out")})
    assert finished(training)["state"] == "done"
    assert read_decisions(home / "tiny-relabelled.csv") == {
        kept: Decision("relabel", "red"),
        left: Decision("leave out"),
        "val/blue/01.png": Decision("leave out"),
    }
    words = training.words(Path("l.csv"), "n")
    assert words.index("train.seed=7") > words.index(f"train.from_run={run}")
    assert not [w for w in words if "others" in w], "they look, and train nothing"


def test_a_training_that_fails_says_why(home: Path) -> None:
    training = Desk(home).training
    Path("fail").touch()
    training.start({"a": Decision("leave out")})
    found = finished(training)
    assert (found["state"], found["said"]) == ("failed", ["the classes are gone"])


def test_without_a_run_the_config_is_trained(tmp_path: Path) -> None:
    root = set_of(tmp_path / "pets")
    write_page(tmp_path, findings_of(root), config=tmp_path / "c.yaml", overrides=["train.seed=1"])
    words = Desk(tmp_path).training.words(Path("l.csv"), "n")
    assert words[:3] == ["--config", str(tmp_path / "c.yaml"), "train.seed=1"]
    write_page(tmp_path, findings_of(root))
    with pytest.raises(UserError, match="names no settings"):
        Desk(tmp_path).training.start({"a": Decision("keep")})


def test_only_pictures_whose_label_stands_are_compared(tmp_path: Path) -> None:
    names = ["blue", "green", "red"]
    old = read_run(make_run(tmp_path / "old", ROWS, names))
    rows = [list(row) for row in ROWS[:-1]]  # the last is left out
    rows[0][2] = rows[0][3]  # red now, as it was taken for
    rows[1][3] = "red"  # wrong now
    rows[2][3] = rows[2][2]  # right now
    found = compared(old, read_run(make_run(tmp_path / "new", rows, names)))
    assert [(name, score) for name, score, _ in found["scores"]] == [
        ("before", "0.500"),
        ("now", "0.500"),
    ]
    said = " ".join(found["said"])
    assert "On the 6 held-out pictures whose label stands: 1 right only now, 1 only before" in said
    assert "1 held-out picture has another label now, and not compared" in said
    assert "gives 1 of them that label" in said
    assert "1 held-out picture is left out now." in said


CTRL_C = """
import sys
from pathlib import Path
from tools.audit import again
from tools.audit.serve import serve
again.TRAINING = Path("stub.py")
serve(Path("logs/audit-tiny"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_end_ends_a_training_too(home: Path, number: int) -> None:
    Path("wait").touch()
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-u", "-c", CTRL_C]
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        found = re.search(r"http://127.0.0.1:(\d+)/\?token=(\S+)", process.stdout.readline())
        assert found is not None

        class There:
            server_port, token = int(found[1]), found[2]

        ask(There, "/decide", ONE)  # type: ignore[arg-type]
        assert ask(There, "/train", {}) == (200, {"begun": True})  # type: ignore[arg-type]
        while not (home / "training.log").read_bytes():
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err and "1 decided" in out
    assert "tiny-relabelled was ended, too: stopped; go on with: python training.py" in out
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [line for line in listed.splitlines() if f"from_run={home.parent}" in line]


def test_what_can_t_be_served_is_a_sentence(home: Path, server: Server, capsys: Any) -> None:
    from utils import command_line

    def fails(*words: str) -> str:
        assert command_line(lambda: audit.main(list(words))) == 2
        return capsys.readouterr().err

    folder = "logs/audit-tiny"
    assert "port" in fails(folder, "--serve", "--port", str(server.server_port))
    assert "no run: none: no such run" in fails("none", "--serve")
    with held(home):
        assert "is served, or applied, by another" in fails(folder, "--serve")
    (home / "decisions.csv").write_text("garbage")
    assert "is no file of decisions" in fails(folder, "--serve")
    assert (home / "decisions.csv").read_text() == "garbage"
    (home / "decisions.csv").unlink()
    (home / "audit.html").unlink()
    assert "audit again" in fails(folder, "--serve")
    (home / "audit.json").write_text("{")
    assert "is no audit's folder" in fails("logs/audit-tiny", "--serve")
