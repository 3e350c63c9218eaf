"""The pages of the training methods, one per entry of `sparring.hardening.METHODS`, and their index."""

from __future__ import annotations

from scripts import docs_notes
from scripts.docs_entry import Entry, entry_page, fields
from scripts.docs_markdown import docstring, fence, first_line, page, plain, table

from sparring.hardening import METHODS, Method

ENDS = "What it does not protect against"
_BUDGET = {"linf": "0.05", "l2": "0.5"}
_NEEDS = {"certified": "eps_warmup=0.3"}
"""Settings that a method asks for in its docstring."""


def pages() -> dict[str, str]:
    """Path below docs/ to Markdown."""
    return {"training/index.md": _index()} | {
        f"training/{name}.md": _page(name, kind) for name, kind in METHODS.items()
    }


def _index() -> str:
    rows = [
        (f"[{name}]({name}.md)", plain(first_line(kind)), ", ".join(kind.threats), plain(kind.paper))
        for name, kind in METHODS.items()
    ]
    return page(
        "Training methods",
        "What `sp.harden(..., method=NAME)` and `sparring harden --method NAME` know. Which to choose, what each costs "
        "and what else can be set: [Harden a model](../hardening.md).",
        table(("name", "what it learns from", "norms", "paper"), rows),
        "Parameters follow the name: `pgd:steps=10`.",
    )


def _page(name: str, kind: type[Method]) -> str:
    return entry_page(
        Entry(
            title=kind.__name__,
            text=docstring(kind),
            about=[("Paper", plain(kind.paper)), ("Norms", ", ".join(kind.threats)), ("As text", f"`{name}`")],
            parameters=fields(kind),
            remark="Everything else is a field of `Recipe`: see [Harden a model](../hardening.md#which-method).",
            example=_example(name, kind),
            after=[
                "On the command line, a real run:",
                "<!-- not executed: trains and audits -->\n" + fence("sh", _command(name, kind)),
            ],
            ends=ENDS,
            note=docs_notes.TRAINING[name],
        )
    )


def _norm(kind: type[Method]) -> str:
    return "linf" if "linf" in kind.threats else kind.threats[0]


def _example(name: str, kind: type[Method]) -> str:
    needed = f", {_NEEDS[name]}" if name in _NEEDS else ""
    return f"""
import torch
from torch import nn

import sparring as sp

data = sp.load_data("digits", split="train", n=400)
threat = sp.ThreatModel("{_norm(kind)}", {_BUDGET[_norm(kind)]})
torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

settings = dict(lr=0.01, batch_size=32, effort=None{needed})  # a toy: a second
hardened = sp.harden(net, (data.images, data.labels), threat, method="{name}", epochs=3, seed=0, **settings)
for epoch in hardened.history:
    print(f"epoch {{epoch.number}}: clean {{epoch.clean:.2f}}  FGSM {{epoch.fgsm:.2f}}  PGD-10 {{epoch.pgd:.2f}}")
""".strip()


def _command(name: str, kind: type[Method]) -> str:
    needed = f" --set {_NEEDS[name]}" if name in _NEEDS else ""
    return f"sparring harden --model digits-cnn --norm {_norm(kind)} --eps 0.1 --method {name}{needed}"
