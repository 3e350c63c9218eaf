"""Synthetic reports that look like real ones, and the edge cases a renderer must survive."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sparring.auditing import report as rp
from sparring.estimate import proportion

HOSTILE = (
    '<script>alert(1)</script> "quoted" [bold red]markup[/] {{ 7*7 }} \x1b[31mred\x00 \u202eevil {0} [a](http://b)'
)


@functools.cache
def share(successes: int, n: int) -> rp.Interval:
    return rp.Interval.of(proportion(successes, n))


def png(pixels: np.ndarray) -> str:
    """A float array (H, W) or (H, W, 3) in [0, 1] as a base64 PNG."""
    stream = io.BytesIO()
    Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def digit(number: int) -> np.ndarray:
    """A digit drawn large and shrunk to 8 x 8 grey pixels."""
    canvas = Image.new("L", (64, 64), 0)
    draw = ImageDraw.Draw(canvas)
    draw.text((32, 32), str(number), fill=255, font=ImageFont.load_default(size=68), anchor="mm")
    return np.asarray(canvas.resize((8, 8), Image.Resampling.BOX), dtype=float) / 255


def scene(seed: int, side: int = 224) -> np.ndarray:
    """A landscape in colour: sky, sun, hills and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    sky = np.stack([0.45 + 0.4 * y, 0.62 + 0.2 * y, 0.9 - 0.15 * y], -1)
    sun = np.exp(-((x - rng.uniform(0.2, 0.8)) ** 2 + (y - 0.25) ** 2) / 0.006)[..., None]
    image = sky * (1 - sun) + sun * np.array([1.0, 0.93, 0.7])
    for depth, colour in enumerate(([0.36, 0.47, 0.5], [0.25, 0.42, 0.3], [0.15, 0.27, 0.16])):
        phase, height = rng.uniform(0, 6), 0.5 + 0.15 * depth
        ridge = height + 0.06 * np.sin(7 * x + phase) + 0.02 * np.sin(23 * x + 2 * phase)
        image = np.where((y > ridge)[..., None], np.array(colour) * (1.15 - 0.4 * y[..., None]), image)
    return (image + rng.normal(0, 0.015, image.shape)).clip(0, 1)


def picture(index: int, clean: np.ndarray, eps: float, **changes: Any) -> rp.Picture:
    delta = eps * np.sign(np.random.default_rng(index).normal(size=clean.shape))
    adversarial = (clean + delta).clip(0, 1)
    gain = 0.5 / eps
    fields = {
        "index": index,
        "label": "3",
        "before": "3",
        "before_confidence": 0.997,
        "after": "8",
        "after_confidence": 0.861,
        "broken_by": "fgsm",
        "evaluations": 2,
        "distance": eps,
        "clean_png": png(clean),
        "adversarial_png": png(adversarial),
        "perturbation_png": png(0.5 + gain * (adversarial - clean)),
        "gain": gain,
        "survives_8bit": True,
    }
    return rp.Picture(**(fields | changes))


def attacker(**changes: Any) -> rp.Attacker:
    fields = {
        "knowledge": "white box: weights, gradients and the whole stack",
        "goal": "untargeted: any wrong class",
        "norm": "linf",
        "eps": 16 / 255,
        "eps_text": "16/255",
        "bounds": (0.0, 1.0),
        "mask": None,
        "attacks": ("fgsm", "apgd:loss=margin,steps=10", "apgd:loss=targeted-dlr,steps=20", "square:queries=500"),
        "queries": "at most 1,100 forward and 600 backward passes per image",
        "compute": "1 process on cpu",
    }
    return rp.Attacker(**(fields | changes))


def stages() -> tuple[rp.Stage, ...]:
    rows = (
        ("fgsm", 486, 205, 486, 486, 0.04, 0, ()),
        ("apgd:loss=margin,steps=10", 281, 74, 2810, 2810, 0.31, 0, ("step size by cosine schedule",)),
        ("apgd:loss=targeted-dlr,steps=20,restarts=5", 207, 32, 20700, 20700, 2.9, 3, ()),
        ("square:queries=500", 60, 1, 30000, 0, 1.9, 0, ("no gradient used",)),
    )
    left, built = 486, []
    for attack, tried, broke, forwards, backwards, seconds, rejected, notes in rows:
        left -= broke
        built.append(
            rp.Stage(
                attack=attack,
                tried=tried,
                broke=broke,
                robust_after=share(left, 500),
                forwards=forwards,
                backwards=backwards,
                seconds=seconds,
                rejected=rejected,
                notes=notes,
                purpose="a random sample" if "square" in attack else "",
            )
        )
    return tuple(built)


def records(wrong: int = 14, broken: int = 312, standing: int = 174) -> tuple[rp.Record, ...]:
    def one(index: int) -> rp.Record:
        is_wrong, is_broken = index < wrong, wrong <= index < wrong + broken
        return rp.Record(
            index=index,
            digest=f"{index:08x}",
            label=index % 10,
            prediction=(index + 1) % 10 if is_wrong else index % 10,
            margin=None if is_wrong else 0.25,
            broken_by="fgsm" if is_broken else None,
            adversarial_prediction=(index + 3) % 10 if is_broken else None,
            distance=0.05 if is_broken else None,
            forwards=12,
            backwards=12,
        )

    return tuple(one(i) for i in range(wrong + broken + standing))


def curve(attack: str, rate: float, norm: str = "linf", top: int = 32) -> rp.Curve:
    points = tuple(
        rp.CurvePoint(eps=k / 255, accuracy=share(round(486 * math.exp(-((rate * k) ** 2) / 60)), 500))
        for k in (0, 2, 4, 8, 12, 16, 24, top)
    )
    return rp.Curve(attack=attack, norm=norm, points=points)


def findings() -> tuple[rp.Finding, ...]:
    return (
        rp.Finding(
            code="small-sample",
            title="Few images a class",
            severity="note",
            evidence="Between 42 and 58 images a class; the interval of a single class is up to 28 points wide.",
            remedy="Audit with --n 2000 before comparing classes.",
        ),
        rp.Finding(
            code="rejected-candidates",
            title="An attack left the budget",
            severity="warning",
            evidence="apgd:loss=targeted-dlr,steps=20 offered 3 candidates beyond 16/255; they were thrown away.",
            remedy="Nothing if the number is this small; else check the attack's projection.",
            references=(rp.Reference(label="Threat models", url="https://example.org/docs/threat"),),
        ),
        rp.Finding(
            code="saturated-logits",
            title="Logits so large that the cross-entropy gradient vanishes",
            severity="critical",
            evidence="For 412 of 486 images the cross-entropy gradient is exactly zero in float32 (logit gap 118).",
            remedy="Attack with the margin or DLR loss, or divide the logits by their scale first. Both ran here.",
            undermines=True,
            resolved=True,
            references=(
                rp.Reference(label="Athalye et al. 2018", url="https://arxiv.org/abs/1802.00420"),
                rp.Reference(label="CWE-1039"),
            ),
        ),
        rp.Finding(
            code="black-box-beats-white-box",
            title="A black-box attack broke what gradients could not",
            severity="critical",
            evidence="square:queries=500 broke 1 of 60 images that every gradient attack had left standing.",
            remedy="Look for a non-differentiable or randomised step in the stack and attack it with BPDA or EOT.",
            undermines=True,
            references=(rp.Reference(label="Carlini et al. 2019, section 4", url="https://arxiv.org/abs/1902.06705"),),
            replay=REPLAY,
        ),
    )


REPLAY = """import sparring as sp

model = sp.load_model("digits-cnn")
images, labels = sp.load_data("digits", n = 500)
threat = sp.ThreatModel("linf", "16/255")

evaluation = sp.evaluate(model, images[17:18], labels[17:18], threat, attacks=["square:queries=500"], seed=0)
print(evaluation.records[0])
"""


def changes(count: int, first: int, by: str | None) -> tuple[rp.Changed, ...]:
    return tuple(
        rp.Changed(index=i, digest=f"{i:016x}", label=i % 10, broken_by=by) for i in range(first, first + count)
    )


def comparison(**other: Any) -> rp.Comparison:
    fields: dict[str, Any] = {
        "old_created": "2025-10-02T11:20:00+00:00",
        "old_model": "digits-cnn",
        "old_model_digest": "sha256:77aa00",
        "differences": ("the model is another one", "attacks: fgsm then, fgsm, square:queries=500 now"),
        "images": 480,
        "only_old": 0,
        "only_new": 20,
        "relabelled": 0,
        "old_robust": share(186, 480),
        "new_robust": share(166, 480),
        "newly_broken": (*changes(24, 100, "square:queries=500"), *changes(1, 3, None)),
        "newly_robust": changes(5, 300, "apgd:loss=targeted-dlr,steps=20,restarts=5"),
        "p_value": 0.00033,
        "verdict": "Of 480 shared images 25 are newly broken and 5 newly robust: robust accuracy is 4.2 points lower.",
    }
    return rp.Comparison(**(fields | other))


def classes(count: int = 10, names: Sequence[str] | None = None) -> tuple[rp.ClassRow, ...]:
    def one(label: int) -> rp.ClassRow:
        robust = (label * 7) % 41
        name = names[label] if names else str(label)
        return rp.ClassRow(
            label=label, name=name, clean=share(49, 50), robust=share(robust, 50), falls_to=str((label + 5) % count)
        )

    return tuple(one(label) for label in range(count))


def spread(median: float, p10: float, p90: float) -> rp.Spread:
    return rp.Spread(median=median, p10=p10, p90=p90)


def sample(**changes: Any) -> rp.Report:
    """A full report of a small digits model."""
    eps = 16 / 255
    gallery = (
        picture(17, digit(3), eps),
        picture(
            42, digit(7), eps, label="7", before="7", after="2", after_confidence=0.55, broken_by="square:queries=500"
        ),
        picture(91, digit(5), eps, label="5", before="5", before_confidence=0.71, after="6", survives_8bit=False),
        picture(108, digit(0), eps, label="0", before="0", after="9", broken_by="apgd:loss=targeted-dlr,steps=20"),
    )
    fields: dict[str, Any] = {
        "sparring_version": "0.1.0",
        "created": "2025-11-21T03:40:12+00:00",
        "complete": True,
        "seconds": 12.34,
        "seed": 0,
        "effort": "standard",
        "subject": rp.Subject(
            model="digits-cnn",
            model_digest="sha256:5f0c2a71d0b94e6f8c1d",
            parameters=20_714,
            data="digits, test split",
            data_digest="sha256:0b77c9e2aa5148f3b6d0",
            images=500,
            shape=(1, 8, 8),
            classes=10,
        ),
        "attacker": attacker(),
        "headline": "An attacker who may change every pixel by 16/255 breaks 64 % of the answers that were right.",
        "evaluation": rp.EvaluationSection(
            clean_accuracy=share(486, 500),
            robust_accuracy=share(174, 500),
            attack_success_rate=share(312, 486),
            missed_bound=0.049,
            complete=True,
            stages=stages(),
            records=records(),
        ),
        "curves": (curve("fgsm", 0.35), curve("apgd:loss=margin,steps=40", 0.48), curve("random noise", 0.1)),
        "cost": rp.CostCurve(
            unit="forward and backward passes per image",
            points=tuple(
                rp.CostPoint(cost=c, broken=0.642 * (1 - math.exp(-c / 9)))
                for c in (0, 1, 2, 4, 8, 12, 20, 30, 50, 80, 130, 200, 330, 600)
            ),
        ),
        "visibility": rp.Visibility(
            images=312,
            l2=spread(0.44, 0.39, 0.49),
            linf=spread(eps, 0.061, eps),
            ssim=spread(0.957, 0.921, 0.981),
            psnr=spread(25.1, 24.2, 26.3),
            survive_png=share(300, 312),
        ),
        "classes": classes(),
        "pictures": gallery,
        "findings": findings(),
        "comparison": comparison(),
        "gate": rp.Gate(
            fail_under=0.4, passed=False, reason="Robust accuracy 34.8 % is under the pass mark of 40.0 %."
        ),
    }
    return rp.Report(**(fields | changes))


def bare(**changes: Any) -> rp.Report:
    """Nothing was counted, nothing was drawn, and it was interrupted."""
    nothing = rp.Interval(value=None, low=0.0, high=1.0, n=0)
    evaluation = rp.EvaluationSection(
        clean_accuracy=nothing,
        robust_accuracy=nothing,
        attack_success_rate=nothing,
        complete=False,
        stages=(),
        records=(),
    )
    empty: dict[str, Any] = {
        "curves": (),
        "cost": None,
        "visibility": None,
        "classes": (),
        "pictures": (),
        "findings": (),
        "comparison": None,
        "gate": None,
        "complete": False,
        "evaluation": evaluation,
        "attacker": attacker(attacks=()),
    }
    return sample(**(empty | changes))


def hostile(text: str = HOSTILE) -> rp.Report:
    """Every text that a stranger may choose holds `text`."""
    base = sample()
    finding = base.findings[3].model_copy(
        update={
            "code": text,
            "title": text,
            "evidence": text,
            "remedy": text,
            "replay": text,
            "references": (
                rp.Reference(label=text, url="javascript:alert(1)"),
                rp.Reference(label=text, url='https://example.org/"onmouseover="alert(1)'),
            ),
        }
    )
    stage = base.evaluation.stages[0].model_copy(update={"attack": text, "notes": (text,)})
    point = rp.CurvePoint(eps=0.1, accuracy=share(1, 2))
    return sample(
        headline=text,
        created=text,
        effort=text,
        sparring_version=text,
        subject=base.subject.model_copy(update={"model": text, "data": text, "model_digest": text}),
        attacker=attacker(knowledge=text, norm=text, mask=text, attacks=(text,), queries=text, eps_text=text),
        evaluation=base.evaluation.model_copy(update={"stages": (stage,)}),
        findings=(finding,),
        comparison=comparison(
            old_created=text, old_model=text, differences=(text,), verdict=text, newly_broken=changes(1, 0, text)
        ),
        curves=(rp.Curve(attack=text, norm=text, points=(point,)), rp.Curve(attack="$x^", norm="l2", points=(point,))),
        cost=rp.CostCurve(unit=text, points=(rp.CostPoint(cost=0, broken=0.5),)),
        classes=classes(3, [text, "日本語のクラス", "e\u0301" * 200]),
        pictures=(picture(1, digit(1), 0.1, label=text, before=text, after=text, broken_by=text, clean_png=text),),
        gate=rp.Gate(fail_under=0.5, passed=False, reason=text),
    )


def photos() -> rp.Report:
    """An ImageNet-sized report: a thousand classes, pictures of 224 pixels, a long model name, all well."""
    eps = 2 / 255
    names = [f"class {i}, " + "a longer description " * (i % 3) for i in range(1000)]
    return sample(
        headline="The model keeps most of its answers against this attacker, and no check found a reason to doubt it.",
        subject=sample().subject.model_copy(
            update={
                "model": "efficientnet_lite_pytorch.EfficientNet:from_name(efficientnet-lite0)+jpeg(75)+bits(5)",
                "shape": (3, 224, 224),
                "classes": 1000,
                "parameters": 4_652_008,
            }
        ),
        attacker=attacker(eps=eps, eps_text="2/255"),
        classes=classes(1000, names),
        pictures=tuple(
            picture(i, scene(i), eps, label="alp", before="alp", after="lakeside, lakeshore", gain=40.0)
            for i in range(3)
        ),
        findings=(),
        comparison=None,
        gate=rp.Gate(fail_under=0.3, passed=True, reason="Robust accuracy 34.8 % meets the pass mark of 30.0 %."),
        curves=(curve("apgd", 0.4), *(curve(f"attack-{i}", 0.1 * i, norm="l2") for i in range(7))),
    )
