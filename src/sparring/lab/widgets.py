"""Two widgets of our own: a picture whose file we read ourselves, and an attack's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from sparring.errors import SparringError
from sparring.lab.controls import Control, controls, written


def upload_box(**look: Any) -> Any:
    """A picture from a file, the camera or the clipboard, handed on as a path: a hostile file is not for gradio to open
    (and a subclass would make gradio write stub files beside the source).
    """
    box = gr.Image(sources=["upload", "webcam", "clipboard"], type="filepath", show_label=False, **look)
    vars(box)["preprocess"] = _path
    return box


def _path(payload: Any) -> str | None:
    return None if payload is None else str(payload.path)


def parameters(attack: gr.Dropdown, spec: gr.Textbox, when: list[Any], changed: Callable[[Any], None]) -> None:
    """A control for each parameter of the chosen attack, drawn anew at the events `when`; what they say together is
    written to `spec`, and `changed` is told of that.
    """

    def drawn(name: str, text: str) -> None:
        known = controls(text if text.partition(":")[0] == name else name)
        with gr.Row():
            widgets = [_widget(control) for control in known]

        def said(*values: Any) -> Any:
            try:
                return written(name, [(c.name, _read(c, value)) for c, value in zip(known, values, strict=True)])
            except SparringError as error:
                gr.Warning(str(error), title="Not a value for this attack")
                return gr.skip()

        for control, widget in zip(known, widgets, strict=True):
            events = [widget.input] if control.kind == "flag" else [widget.submit, widget.blur]
            for event in events:
                changed(event(said, widgets, spec, show_progress="hidden"))

    gr.render(inputs=[attack, spec], triggers=when, show_progress="hidden")(drawn)


def _widget(control: Control) -> Any:
    shape: dict[str, Any] = {
        "label": control.name,
        "elem_id": f"parameter-{control.name}",
        "min_width": 150,
        "interactive": True,
    }
    if control.kind == "flag":
        return gr.Checkbox(bool(control.value), **shape)
    return gr.Textbox("" if control.value is None else f"{control.value}", **shape)


def _read(control: Control, value: Any) -> Any:
    if control.kind == "flag":
        return bool(value)
    text = str(value).strip()
    return None if not text and control.optional else text
