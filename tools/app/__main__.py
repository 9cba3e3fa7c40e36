"""A page on this machine that shows a trained network: a picture in, its answer and where it looks.

    python -m tools.app                                the newest run, on http://127.0.0.1:7860
    python -m tools.app --checkpoint NAME --open       a run's network, in the browser at once
    curl --data-binary @bee.jpg http://127.0.0.1:7860/answer

The page asks no other machine for anything, sends nothing anywhere and keeps no picture. An answer
that is less probable than --min-confidence is `unsure`; of a picture that is as far from the
training pictures as --unlike it is `unlike`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from answers import USUAL, add_thresholds, thresholds
from classifier import UNLIKE, Classifier, find_checkpoint, wanted_weights
from config import ConfigError
from engine.run import BEST, config_of
from inspection.record import read_run
from tools.app.answering import MOST_PIXELS, Answering
from tools.app.known import Known, known_pictures
from tools.app.place import PORT, is_own, listening, url_of
from utils import UserError, command_line

# Before Gradio is imported: it would report its use, and ask for its newest version.
SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if find_spec("gradio") is None:
        raise UserError("tools.app needs gradio: pip install gradio")
    place = listening(args.host, args.port)
    wanted = wanted_weights(args.checkpoint)
    checkpoint = find_checkpoint(os.path.expanduser(wanted))
    classifier = Classifier(
        checkpoint,
        device=args.device,
        min_confidence=args.min_confidence,
        unlike=UNLIKE if args.unlike is USUAL else args.unlike,
        max_pixels=MOST_PIXELS,
    )
    print(f"by {checkpoint}", *thresholds(classifier, args.unlike is not USUAL), sep="\n")
    known = pictures_of_run(checkpoint, wanted)
    with place, tempfile.TemporaryDirectory(prefix="vit-app-") as folder:
        os.environ |= SILENT | {"GRADIO_TEMP_DIR": folder}
        from tools.app.server import serve, served  # Gradio takes seconds to import

        url = url_of(place)
        answering = Answering(classifier)
        app = served(answering, known, Path(folder), url, is_own(args.host))
        if not is_own(args.host):
            print(
                "warning: whoever reaches this machine can use the page, and see the pictures on "
                "it; --host 127.0.0.1 is for this machine alone"
            )
        print(f"JSON: curl --data-binary @picture.jpg {url}/answer")
        print(f"open {url} in a browser; Ctrl-C ends it", flush=True)
        if args.open:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        serve(app, place, answering.end)
    return 0


def pictures_of_run(checkpoint: Path, wanted: str) -> Known:
    """The examples and mistakes of the run that a checkpoint is of."""
    config = config_of(checkpoint, wanted)
    known = known_pictures(None if config is None else read_run(config.parent), checkpoint)
    print(f"{len(known.examples)} examples, {len(known.mistakes)} mistakes: {known.note}")
    return known


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", help=f"a run's {BEST}, its name or folder (config.yaml's, or last)")
    add("--port", type=int, metavar="N", help=f"the port ({PORT}, or the next free one)")
    add("--host", default="127.0.0.1", help="whose requests are answered (127.0.0.1: one's own)")
    add("--open", action="store_true", help="open the page in the browser")
    add_thresholds(parser)
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    args = parser.parse_args(argv)
    if args.port is not None and not 0 < args.port < 65536:
        parser.error(f"--port {args.port} must be from 1 to 65535")
    return args


if __name__ == "__main__":
    raise SystemExit(command_line(main, ConfigError))
