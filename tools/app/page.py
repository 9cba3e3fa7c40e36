"""The page: what stands where, and what each part does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from answers import as_csv, columns, listed, record, thresholds, title
from inspection.render import render
from tools.app.answering import MOST_BYTES, MOST_PIXELS, Answering, Told
from tools.app.known import Known, Shown
from tools.app.uploads import Upload, as_they_come, gone_after
from tools.app.words import percent, summed

TEMPLATES = Path(__file__).with_name("templates")
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace"]
THEME = gr.themes.Base(  # the fonts of the system: Gradio's own are fetched
    primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO
)
ROWS = 200  # of the table, at most; the file has all
CSV = "answers.csv"
PROGRESS = gr.Progress()
TO_THE_ANSWER = "() => document.getElementById('answer').scrollIntoView({block: 'start'})"


def page(answering: Answering, known: Known, folder: Path, url: str) -> gr.Blocks:
    """The page of a classifier; its files of answers lie below `folder`."""
    classifier = answering.classifier
    classes = list(classifier.classes)
    with gr.Blocks(title=title(classes), analytics_enabled=False) as blocks:
        gr.HTML(part("head", title=title(classes)), padding=False)
        with gr.Tab("One picture"):
            one_picture(answering, known)
        with gr.Tab("Many"):
            many_pictures(answering, folder)
        with gr.Tab("About"):
            about = part(
                "about",
                classes=listed(classes, "and"),
                thresholds=thresholds(classifier, asked_unlike=False),
                bytes=f"{MOST_BYTES >> 20} MB",
                pixels=f"{MOST_PIXELS / 1e6:.0f} megapixels",
                url=url,
            )
            gr.HTML(about, padding=False)
    return blocks


# ------------------------------------------------------------------------------------- one picture


def one_picture(answering: Answering, known: Known) -> None:
    def uploaded(given: Upload | None) -> tuple[Any, Any]:
        if given is None:
            return gr.skip(), gr.skip()
        with gone_after([given]):
            return None, answer_to(answering.one(*given))

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            picture = gr.Image(
                sources=["upload", "clipboard", "webcam"],
                label="Drop, paste or photograph a picture",
                height=260,
                elem_id="picture",
            )
        with gr.Column(scale=3, min_width=280):
            answer = gr.HTML(answer_to(None), elem_id="answer", padding=False)
    picture = as_they_come(picture)
    picture.input(
        uploaded, picture, [picture, answer], show_progress_on=answer, api_visibility="private"
    )
    with gr.Column(elem_id="known"):
        gr.HTML(part("note", note=known.note, there=bool(known.examples)), padding=False)
        gallery(answering, known.examples, "Pictures to try", answer)
        gallery(answering, known.mistakes, "What it got wrong, the surest first", answer)


def gallery(answering: Answering, pictures: list[Shown], label: str, answer: gr.HTML) -> None:
    """Pictures of the run; the one that is clicked on is answered."""
    if not pictures:
        return

    def chosen(event: gr.SelectData) -> str:
        path = pictures[int(event.index)].path
        return answer_to(answering.one(path, path.name))

    shown = gr.Gallery(
        [(one.picture, one.caption) for one in pictures],
        label=label,
        columns=6,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        format="jpeg",
    )
    shown.select(chosen, None, answer, api_visibility="private").then(
        None, None, None, js=TO_THE_ANSWER, api_visibility="private"
    )


# -------------------------------------------------------------------------------------------- many


def many_pictures(answering: Answering, folder: Path) -> None:
    def uploaded(given: list[Upload], progress: gr.Progress = PROGRESS) -> tuple[Any, Any, Any]:
        if not given:
            return gr.skip(), gr.skip(), gr.skip()
        with gone_after(given):
            each = progress.tqdm(answering.many(given), desc="answering", total=len(given))
            rows = list(each)
        file = Path(tempfile.mkdtemp(dir=folder), CSV)
        records = [record(row, truth=False, cells=True) for row in rows]
        names = columns(1, truth=False)
        file.write_bytes(as_csv([names, *([one.get(name) for name in names] for one in records)]))
        table = part("many", rows=rows[:ROWS], summed=summed(rows), left=len(rows) - ROWS)
        return None, table, gr.DownloadButton(value=file, visible=True)

    files = gr.File(file_count="multiple", label="Drop pictures, or choose them", height=180)
    files = as_they_come(files, many=True)
    table = gr.HTML(padding=False, elem_id="table")
    download = gr.DownloadButton("Download all as CSV", visible=False, variant="primary")
    files.upload(
        uploaded, files, [files, table, download], show_progress_on=table, api_visibility="private"
    )


# ------------------------------------------------------------------------------------------ pieces


def answer_to(told: Told | None) -> str:
    """An answer as a piece of the page; before the first, where it will be."""
    return part("answer", told=told)


def part(name: str, **values: Any) -> str:
    """A piece of the page of its template; every value is escaped."""
    return render(TEMPLATES / f"{name}.html", share=percent, **values)
