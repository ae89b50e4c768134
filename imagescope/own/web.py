"""The page: a conversation on the left, pictures on the right, better after each stage.

Thumbnails travel inside the page's updates, so no address of this server names a file. All model
work is done by one thread (own/desk.py), a stage at a time, so that several users' searches take
turns and each sees first results early; what is uploaded is decoded elsewhere, by our own decoder
alone, and made small (own/references.py). What reaches the page at all is own/guard.py's to say.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markupsafe import escape

from imagescope.config import PACKAGE, EngineName
from imagescope.errors import UserError
from imagescope.own import library, show
from imagescope.own.answers import Answer, Result
from imagescope.own.ask import answering, state
from imagescope.own.desk import Desk, Session
from imagescope.own.guard import LARGEST_UPLOAD, Guard
from imagescope.own.references import References, picture_tag
from imagescope.own.scope import ImageScope

log = logging.getLogger("imagescope")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
DECODING = 2  # uploads decoded at a time: each may take a gigabyte for a moment
USERS = 16  # searches under way at a time; more wait in the queue
LONGEST = 2000  # characters of a line
HINT = "Describe a picture. Then refine it, or take a result and say what is to be different."


def build(desk: Desk, top: int) -> Any:
    """The page as gradio Blocks; its style goes to `launch`."""
    import gradio as gr

    references = References(desk.scope, Path(os.environ["GRADIO_TEMP_DIR"]))
    name = desk.scope.name
    with gr.Blocks(
        title=f"{name} · ImageScope", analytics_enabled=False, delete_cache=(60, 3600)
    ) as page:
        session = gr.State(Session())
        gr.HTML(f"<h1>{escape(name)}</h1>", elem_id="title", padding=False)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                chat = gr.Chatbot(
                    label="Conversation",  # for screen readers: shown, it would lie on the text
                    show_label=False,
                    height=360,
                    render_markdown=False,
                    feedback_options=None,
                    buttons=[],
                    placeholder=HINT,
                    elem_id="said",
                )
                line = gr.Textbox(
                    label="What do you look for?",
                    placeholder="a dog on a beach",
                    max_length=LONGEST,
                    submit_btn=True,
                    autofocus=True,
                    elem_id="line",
                )
                reference = gr.HTML(elem_id="reference")
                upload = gr.File(  # it stores bytes; gradio's picture components decode them
                    label="Reference picture (drop one, or take a result)",
                    type="filepath",
                    height=110,
                    elem_id="upload",
                )
                without = gr.Button("No reference", size="sm", elem_id="without")
                again = gr.Button("Start over", size="sm", elem_id="again")
            with gr.Column(scale=5, min_width=320):
                status = gr.HTML(_status(f"{len(desk.scope)} pictures"), elem_id="status")
                meant = gr.HTML(elem_id="meant")
                with gr.Row(elem_id="results"):
                    slots = [_slot(gr, rank) for rank in range(1, top + 1)]
        columns, cards, buttons = zip(*slots, strict=True)

        # Each function below returns new values by component; what it leaves out stays as it is.

        def results(answer: Answer | None, words: str) -> dict[Any, Any]:
            best: list[Result | None] = [*(answer or ()), *[None] * top][:top]
            details = ""
            if answer is not None and answer.lines:
                summary = "<summary>How this was understood</summary>"
                details = f"<details>{summary}{show.meaning(answer)}</details>"
            values: dict[Any, Any] = {status: _status(words), meant: details}
            for column, card, result in zip(columns, cards, best, strict=True):
                values[column] = gr.Column(visible=result is not None)
                values[card] = show.card(result) if result else ""
            return values

        def say(text: str, now: Session) -> Iterator[dict[Any, Any]]:
            conversation, talk = now.conversation, {session: now, chat: now.lines}
            nothing = results(None, "Nothing was searched")
            if not text.strip():
                yield {line: ""}
                return
            if len(text) > LONGEST:  # the browser's limit binds no other program
                now.note("assistant", f"A line has at most {LONGEST} characters.")
                yield talk
                return
            now.note("user", text.strip())
            if now.refused:
                now.note("assistant", now.refused)
                yield talk | nothing | {line: ""}
                return
            now.turn += 1
            yield talk | {line: "", status: _status("Looking")}
            answer, restarts = None, conversation.restarts
            try:
                for answer in desk.answers(now, text, top):
                    if conversation.restarts != restarts:
                        return
                    yield talk | results(answer, _progress(answer))
            except UserError as error:
                if conversation.restarts == restarts:
                    log.info("page: %s", error)
                    now.note("assistant", without_folders(str(error), desk.scope))
                    yield talk | nothing
                return
            if answer is not None and conversation.restarts == restarts:
                now.note("assistant", f"Looking for: {answer.carried}")
                yield talk if conversation.reference else talk | {reference: ""}

        def take(path: str | None, now: Session) -> dict[Any, Any]:
            now.conversation.reference, now.refused, picture = None, "", ""
            try:
                if path:
                    now.conversation.reference, picture = references.take(path)
            except UserError as error:
                now.refused = (
                    f"The reference picture was not taken: {error}. Nothing is searched before "
                    "you drop another, or press No reference."
                )
                now.note("assistant", now.refused)
            return {session: now, chat: now.lines, reference: picture, upload: None}

        def pick(rank: int, now: Session) -> dict[Any, Any]:
            talk = {session: now, chat: now.lines}
            try:
                result = now.conversation.like(rank)
            except UserError as error:
                now.note("assistant", str(error))
                return talk
            now.refused = ""
            now.note("assistant", f"{result.name} is the reference. What is to be different?")
            return talk | {reference: picture_tag(show.data_uri(result.thumbnail))}

        def restart(now: Session) -> dict[Any, Any]:
            now.conversation.restart()
            now.lines.clear()
            now.refused = ""
            talk = {session: now, chat: now.lines, line: "", reference: ""}
            return talk | results(None, f"{len(desk.scope)} pictures")

        everything = [session, chat, line, reference, status, meant, *columns, *cards]
        quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": USERS}
        line.submit(say, [line, session], everything, **quiet)
        again.click(restart, session, everything, **quiet)
        changes = [session, chat, reference, upload]
        upload.upload(take, [upload, session], changes, **quiet | {"concurrency_limit": DECODING})
        without.click(lambda now: take(None, now), session, changes, **quiet)
        for rank, button in enumerate(buttons, 1):
            button.click(partial(pick, rank), session, [session, chat, reference], **quiet)
    return page


def _slot(gr: Any, rank: int) -> tuple[Any, Any, Any]:
    """The place of one result: shown when there is one."""
    with gr.Column(visible=False, min_width=200, elem_classes="slot") as column:
        card = gr.HTML()
        button = gr.Button("More like this", size="sm", elem_id=f"like-{rank}")
    return column, card, button


def _progress(answer: Answer) -> str:
    doing = f"{answer.title}; {answer.upcoming.lower()} under way" if answer.upcoming else "Done"
    return f"{doing} · {answer.seconds:.1f} s"


def _status(words: str) -> str:
    return f'<p role="status" aria-live="polite">{escape(words)}</p>'


def without_folders(text: str, scope: ImageScope) -> str:
    """A message for visitors: where things lie on the server is not theirs to know."""
    places = (scope.manifest.folder, library.home(), Path.home(), Path.cwd(), PACKAGE.parent)
    for place in sorted({str(place) for place in places}, key=len, reverse=True):
        if place != "/":
            text = text.replace(f"{place}/", "").replace(place, "…")
    return re.sub(r"(?<![\w:/.])/(?:[^\s/:;,'\"()]+/)+", "", text)


def start(desk: Desk, host: str, port: int, top: int) -> Any:
    """Builds and launches the page in the background; returns gradio's Blocks (`local_url`)."""
    import gradio as gr

    page = build(desk, top)
    page.queue(max_size=4 * USERS, default_concurrency_limit=USERS, api_open=False)
    plain = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # fetched from nowhere
    page.launch(
        server_name=host,
        server_port=port or _free_port(host),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        allowed_paths=[],
        blocked_paths=[str(desk.scope.manifest.folder)],
        max_file_size=LARGEST_UPLOAD,
        theme=gr.themes.Default(primary_hue="emerald", font=plain[0], font_mono=plain[1]),
        css=show.css() + (Path(__file__).parent / "web.css").read_text(encoding="utf-8"),
    )
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    page.app.middleware_stack = Guard(page.app.middleware_stack, host, uploads)  # around gradio's
    return page


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


@contextmanager
def _without_proxy() -> Iterator[None]:
    """While the page starts, its framework asks it whether it is up: not through the proxy that
    the environment names, nor with its certificates."""
    names = [n for n in os.environ if n.lower().endswith("_proxy") or n in CERTIFICATES]
    saved = {name: os.environ.pop(name) for name in names}
    os.environ["NO_PROXY"] = "*"
    try:
        yield
    finally:
        del os.environ["NO_PROXY"]
        os.environ.update(saved)


def serve(
    name: str,
    host: str,
    port: int,
    top: int,
    models: str | None,
    engine: EngineName | None,
    resident: bool,
    method: str = "imagescope",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Serves an index' page until interrupted; for the others see ImageScope.open. Raises UserError
    where the port is taken, gradio is not installed, or the index cannot be opened."""
    if not find_spec("gradio"):
        raise UserError("the page needs gradio: pip install 'imagescope[serve]'")
    opened = state(name)
    desk = Desk(lambda: ImageScope.open(name, models, engine, resident, method, options))
    with tempfile.TemporaryDirectory(prefix="imagescope-") as uploads:
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            with _without_proxy():
                page = start(desk, host, port, top)
        except OSError as error:
            raise UserError(f"cannot listen on {host}:{port}: {error}. Another --port?") from None
        try:
            desk.warm()
            with answering(desk, opened):
                print(f"{page.local_url} (Ctrl-C ends it)", flush=True)
                page.block_thread()
        finally:
            page.close(verbose=False)
            desk.close()
