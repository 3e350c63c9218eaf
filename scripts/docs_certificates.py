"""The pages of the certificates, one per entry of `sparring.certification.METHODS`, and their index."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from scripts import docs_notes
from scripts.docs_entry import Entry, entry_page, fields
from scripts.docs_markdown import page, plain, table

from sparring.certification import METHODS, Smoothing, certify


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to prove: what it does, where it is from, of whom it speaks, its norms, and which arguments it reads."""

    title: str
    text: str
    paper: str
    subject: str
    norms: str
    reads: tuple[str, ...]


_MODEL = "the model itself, deterministically"
WAYS = {
    "crown": Way(
        title="CROWN",
        text="Lines are drawn below and above every bent function and followed from the logits back to the image, "
        "which "
        "gives the least margin over the whole ball. The bounds of the layers before are tightened the same way, in "
        "layers of at most `work` values. `slopes` steps of gradient ascent improve the lines of the ReLUs.",
        paper="Zhang et al., Efficient Neural Network Robustness Certification with General Activation Functions, "
        "NeurIPS 2018, arXiv:1811.00866",
        subject=_MODEL,
        norms="linf, l2",
        reads=("slopes", "radius", "work", "batch_size"),
    ),
    "crown-ibp": Way(
        title="CROWN-IBP",
        text="Intervals through all layers first, then lines from the logits back to the image over these intervals: "
        "tighter than intervals, cheaper than `crown`.",
        paper="Zhang et al., Towards Stable and Efficient Training of Verifiably Robust Neural Networks, ICLR 2020, "
        "arXiv:1906.06316",
        subject=_MODEL,
        norms="linf, l2",
        reads=("slopes", "radius", "batch_size"),
    ),
    "ibp": Way(
        title="IBP",
        text="The ball becomes an interval per pixel, and intervals go through every layer. It costs about two passes "
        "through the model.",
        paper="Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models, "
        "2018, arXiv:1810.12715",
        subject=_MODEL,
        norms="linf, l2",
        reads=("radius", "batch_size"),
    ),
    "smoothing": Way(
        title="Randomised smoothing",
        text="The smoothed model answers with the class that the model gives most often under Gaussian noise. Some "
        "draws "
        "choose the class, fresh ones bound its probability from below, and from that follows a radius within "
        "which the vote cannot change.",
        paper="Cohen, Rosenfeld & Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019, "
        "arXiv:1902.02918",
        subject="the smoothed model, each certificate with probability 1 - `alpha`",
        norms="l2",
        reads=("smoothing", "seed"),
    ),
    "lipschitz": Way(
        title="Lipschitz margin",
        text="The lead of the label over each rival, divided by a proven bound on how fast that lead can change "
        "anywhere: "
        "the product of the layers' operator norms, the last layer pair by pair.",
        paper="Tsuzuku, Sato & Sugiyama, Lipschitz-Margin Training, NeurIPS 2018, arXiv:1802.04034",
        subject=_MODEL,
        norms="linf, l2",
        reads=(),
    ),
}


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return {"certificates/index.md": _index()} | {f"certificates/{name}.md": _page(name) for name in METHODS}


def _index() -> str:
    rows = [(f"[{name}]({name}.md)", WAYS[name].subject, WAYS[name].norms, plain(WAYS[name].paper)) for name in METHODS]
    return page(
        "Certificates",
        "What `sp.certify(..., method=NAME)` and `sparring certify --method NAME` can prove, and of whom. How to read "
        "a "
        "certificate beside an attack: [What no attack can break](../certification.md).",
        table(("name", "about", "norms", "paper"), rows),
    )


def _page(name: str) -> str:
    way = WAYS[name]
    known = inspect.signature(certify).parameters
    rows = [(f"`{each}`", f"`{known[each].annotation}`", f"`{known[each].default!r}`") for each in way.reads]
    if "smoothing" in way.reads:
        rows += [(f"`Smoothing.{field.strip('`')}`", kind, default) for field, kind, default in fields(Smoothing)]
    return entry_page(
        Entry(
            title=way.title,
            text=way.text,
            about=[
                ("Paper", plain(way.paper)),
                ("About", way.subject),
                ("Norms", way.norms),
                ("As text", f"`{name}`"),
            ],
            parameters=rows,
            remark="They are arguments of [`sp.certify`](../reference/certification.md#certification.certify)."
            if rows
            else "",
            example=_example(name),
            ends="What it does not prove",
            note=docs_notes.CERTIFICATES[name],
        )
    )


def _example(name: str) -> str:
    smoothed = name == "smoothing"
    more = ", smoothing=Smoothing(n0=50, n=500, alpha=0.01)" if smoothed else ""
    return f"""
import sparring as sp
{"from sparring.certification import Smoothing" + chr(10) if smoothed else ""}
model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n={5 if smoothed else 20})
threat = sp.ThreatModel("l2", 0.05)

proof = sp.certify(model, images, labels, threat, method="{name}"{more})
print("proved: ", proof.certified_accuracy)
print("subject:", proof.subject)
""".strip()
