"""The page: components and what happens when they are touched. Whatever is shown is made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from sparring.lab import handlers
from sparring.lab.handlers import Desk
from sparring.lab.layers import usable_detectors
from sparring.lab.settings import LEVELS, attacks_in
from sparring.lab.widgets import parameters, upload_box
from sparring.norms import NORMS

CSS = Path(__file__).with_name("lab.css")
SHARE = """(query) => { history.replaceState(null, "", query);
  return window.location.origin + window.location.pathname + query; }"""
TYPING = """() => document.addEventListener('click', event => {
  if (event.target.matches('#target input, #attack input, #model input')) event.target.select(); })"""
"""What is typed into a dropdown takes the place of what it says: of a thousand classes only a hundred are listed."""
QUIET: dict[str, Any] = {"show_progress": "hidden"}


@dataclass(frozen=True)
class Parts:
    """Every component that an event reads or writes."""

    compare: gr.ImageSlider
    noise: gr.Image
    answer: gr.HTML
    level: gr.Slider
    upload: Any
    example: gr.Textbox
    examples: gr.Gallery
    model: gr.Dropdown
    norm: gr.Radio
    attack: gr.Dropdown
    spec: gr.Textbox
    place: gr.Column
    target: gr.Dropdown
    curves: gr.HTML
    formula: gr.HTML
    transforms: gr.CheckboxGroup
    detectors: gr.CheckboxGroup
    defend: gr.Button
    layers: gr.HTML
    beside: gr.Button
    rivals: gr.HTML
    line_up: gr.Button
    gallery: gr.HTML
    png: gr.DownloadButton
    npy: gr.DownloadButton
    query: gr.Textbox
    link: gr.Textbox

    @property
    def controls(self) -> list[Any]:
        """What says the settings, in the order that the handlers take it."""
        return [self.upload, self.example, self.model, self.spec, self.norm, self.level, self.target]

    @property
    def answered(self) -> list[Any]:
        """What the answer is shown in."""
        return [self.compare, self.noise, self.answer, self.formula, self.curves, self.query]


def page(desk: Desk) -> Any:
    """The page around the models of `desk`."""
    with gr.Blocks(
        analytics_enabled=False, title="sparring lab", fill_width=True, delete_cache=(3600, 86400)
    ) as blocks:
        gr.Markdown("# sparring lab\nMove epsilon and watch the picture, the answer and the model's confidence.")
        parts = _laid_out(desk)
        _wired(blocks, desk, parts)
    return blocks


def _laid_out(desk: Desk) -> Parts:
    shelf = desk.play.shelf
    made: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            made["compare"] = gr.ImageSlider(
                label="original | adversarial", type="numpy", format="png", interactive=False, elem_id="picture",
                buttons=["fullscreen"], max_height=460,
            )  # fmt: skip
            made["level"] = gr.Slider(0, LEVELS, 4, step=1, label="epsilon, in 1/255", elem_id="epsilon")
            made["answer"] = gr.HTML(elem_id="answer")
        with gr.Column(scale=2, min_width=320):
            made |= _choices(shelf.names, shelf.first)
    with gr.Tabs():
        with gr.Tab("Curves"):
            made["curves"] = gr.HTML(elem_id="curves")
        with gr.Tab("How it works"):
            made["formula"] = gr.HTML(elem_id="formula")
        with gr.Tab("The change"):
            made["noise"] = gr.Image(
                label="change", type="numpy", format="png", interactive=False, elem_id="noise", height=420,
                buttons=["fullscreen"],
            )  # fmt: skip
        with gr.Tab("Defenses"):
            made |= _defenses()
        with gr.Tab("Hardened"):
            made["beside"] = gr.Button("Compare with the hardened model", variant="primary", elem_id="beside")
            made["rivals"] = gr.HTML(elem_id="rivals")
        with gr.Tab("Attacks side by side"):
            made["line_up"] = gr.Button("Run the five attacks", variant="primary", elem_id="line-up")
            made["gallery"] = gr.HTML(elem_id="gallery")
        with gr.Tab("Keep and share"):
            with gr.Row():
                made["png"] = gr.DownloadButton("Picture, 8 bit (.png)", elem_id="save-png")
                made["npy"] = gr.DownloadButton("Exact tensor (.npy)", elem_id="save-npy")
            made["link"] = gr.Textbox(
                label="Link to these settings", buttons=["copy"], interactive=False, elem_id="link"
            )
            gr.Markdown("A link carries the settings, not an uploaded picture: it opens the example chosen last.")
            made["query"] = gr.Textbox(visible="hidden")
    return Parts(**{field.name: made[field.name] for field in fields(Parts)})


def _choices(models: tuple[str, ...], first: str) -> dict[str, Any]:
    with gr.Tabs():
        with gr.Tab("Examples"):
            examples = gr.Gallery(
                columns=6, allow_preview=False, height=190, object_fit="cover", show_label=False, elem_id="examples",
                format="png", buttons=[],
            )  # fmt: skip
        with gr.Tab("Your picture"):
            upload = upload_box(height=190, elem_id="upload")
    example = gr.Textbox(visible="hidden", elem_id="example")
    model = gr.Dropdown(list(models), value=first, label="Model", elem_id="model")
    with gr.Row():
        norm = gr.Radio(list(NORMS), value="linf", label="Norm", elem_id="norm", scale=2, min_width=300)
        attack = gr.Dropdown(
            list(attacks_in("linf")), value="fgsm", label="Attack", elem_id="attack", scale=1, min_width=110
        )
    target = gr.Dropdown([("any other class", -1)], value=-1, label="Target", elem_id="target")
    with gr.Accordion("Parameters of the attack", open=False):
        spec = gr.Textbox("fgsm", label="As text, for --attack", elem_id="spec", buttons=["copy"], submit_btn=False)
        place = gr.Column()
    return {
        "examples": examples, "upload": upload, "example": example, "model": model, "norm": norm, "attack": attack,
        "target": target, "spec": spec, "place": place,
    }  # fmt: skip


def _defenses() -> dict[str, Any]:
    transforms = gr.CheckboxGroup([], label="Transforms before the model", elem_id="transforms")
    detectors = gr.CheckboxGroup(
        list(usable_detectors()), value=["feature_squeezing"], label="Detectors beside it", elem_id="detectors"
    )
    defend = gr.Button("Attack this stack", variant="primary", elem_id="defend")
    return {"transforms": transforms, "detectors": detectors, "defend": defend, "layers": gr.HTML(elem_id="layers")}


def _wired(blocks: gr.Blocks, desk: Desk, p: Parts) -> None:
    """Touching a control shows the answer, then fills in the curves, the files and the link."""
    show: dict[str, Any] = {"fn": desk.show, "inputs": p.controls, "outputs": p.answered, **QUIET}
    slow = {"fn": desk.curves, "inputs": p.controls, "outputs": p.curves, **QUIET}
    keep = {"fn": desk.files, "inputs": p.controls, "outputs": [p.png, p.npy], **QUIET}

    def then(event: Any) -> None:
        shown = event.then(**show, trigger_mode="always_last")
        shown.then(fn=None, inputs=p.query, outputs=p.link, js=SHARE)
        shown.then(**keep)
        shown.then(**slow)

    subject = {"fn": desk.subject, "inputs": p.model, "outputs": [p.examples, p.target, p.transforms], **QUIET}
    opened = blocks.load(desk.restore, None, [*p.controls[1:], p.attack], **QUIET)
    opened.then(**subject)
    blocks.load(None, js=TYPING)
    then(opened)
    switched = p.model.input(desk.switched, p.model, [p.upload, p.example, p.target], **QUIET)
    switched.then(**subject)
    then(switched)
    moved = p.level.input(**show, trigger_mode="always_last")
    moved.then(fn=None, inputs=p.query, outputs=p.link, js=SHARE)
    moved.then(**keep)
    then(p.norm.input(handlers.in_norm, [p.norm, p.attack, p.spec], [p.attack, p.spec, p.level], **QUIET))
    then(p.attack.input(lambda name: name, p.attack, p.spec, **QUIET))
    then(p.examples.select(desk.picked, p.model, [p.example, p.upload], **QUIET))
    for event in (p.spec.submit, p.spec.blur, p.target.input, p.upload.input, p.upload.clear):
        then(event(lambda: None, **QUIET))
    p.spec.submit(handlers.named, [p.spec, p.attack], p.attack, **QUIET)
    with p.place:
        parameters(p.attack, p.spec, [blocks.load, p.attack.change], then)
    layered = [*p.controls, p.transforms, p.detectors]
    p.defend.click(desk.layers, layered, p.layers, **QUIET)
    p.beside.click(desk.rivals, p.controls, p.rivals, **QUIET)
    p.line_up.click(desk.gallery, p.controls, p.gallery, **QUIET)
