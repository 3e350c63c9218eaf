"""What defenses are worth: the paper's detectors and transforms, each beside an attacker who knows it.

    python bench/defenses.py squeezing jpeg random rival latency    # any of them, to results/defenses/NAME.json

Numbers carry n and a 95 % interval. Minutes to half an hour each on one core; `--quick` tries the script out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import defenses_rival
import sparring as sp
import zoo
from sparring.defenses import Stack
from sparring.defenses import detectors as d
from sparring.defenses import transforms as t
from sparring.defenses.outcome import _plain
from sparring.estimate import mcnemar, proportion

RESULTS = Path(__file__).resolve().parent / "results" / "defenses"


def save(name: str, found: dict) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {"torch": torch.__version__, "sparring": sp.__version__, **_plain(found)}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def effort(quick: bool) -> str:
    return "quick" if quick else "standard"


def short(outcome: sp.StackOutcome) -> dict:
    """The outcome without its images."""
    said = outcome.plain()
    return {key: value for key, value in said.items() if key not in ("records", "schema")}


def nets() -> dict[str, tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Name to net, images to calibrate on (not trained on), images to judge on."""
    x, y = zoo.mnist5k("test")
    fx, fy = zoo.fashion("test")
    return {
        "mnist5k": (zoo.load("mnist5k-standard"), (x[:500], y[:500]), (x[500:], y[500:])),
        "fashion": (zoo.load("small-standard"), (fx[:5000], fy[:5000]), (fx[5000:], fy[5000:])),
    }


# --- 1: feature squeezing, against the attacks of its paper ------------------


def attacks(data: str) -> dict[str, tuple[object, sp.ThreatModel]]:
    eps = 0.3 if data == "mnist5k" else 0.1
    return {
        "fgsm": (sp.attacks.FGSM(), sp.ThreatModel("linf", eps)),
        "bim": (sp.attacks.BIM(steps=20), sp.ThreatModel("linf", eps)),
        "pgd": (sp.attacks.PGD(steps=40), sp.ThreatModel("linf", eps)),
        "cw": (sp.attacks.parse("cw"), sp.ThreatModel("l2", 5.0)),
        "deepfool": (sp.attacks.DeepFool(), sp.ThreatModel("l2", 5.0)),
        "jsma": (sp.attacks.JSMA(), sp.ThreatModel("l0", 80)),
    }


def squeezing(quick: bool) -> None:
    """With the squeezers of the paper's joint detector for grey pictures, 1 bit and 2 x 2 median."""
    out: dict = {}
    for data in ("mnist5k", "fashion"):
        _squeeze(data, d.FeatureSqueezing(), (0.3, 0.1) if data == "mnist5k" else (0.05,), out, "squeezing", quick)


def gentle(quick: bool) -> None:
    """Fashion-MNIST again, with 5 bits and 2 x 2 median: one bit is too few for its greys."""
    _squeeze("fashion", d.FeatureSqueezing(squeezers=(t.BitDepth(bits=5), t.Median())), (0.05,), {}, "gentle", quick)


def one_bit(quick: bool) -> None:
    """The squeezer alone, as a transform: what feature squeezing on MNIST owes to it."""
    net, _, (x, y) = nets()["mnist5k"]
    x, y, out = x[:50], y[:50], {}
    for eps in (0.15, 0.3):
        outcome = sp.evaluate_stack(
            Stack(net, [t.BitDepth(bits=1)]), x, y, sp.ThreatModel("linf", eps), effort=effort(quick)
        )
        out[f"adaptive linf {eps}"] = short(outcome)
        print(eps, outcome.summary, flush=True)
        save("one_bit", out)


def _squeeze(data: str, detector: d.Detector, budgets: tuple[float, ...], out: dict, name: str, quick: bool) -> None:
    net, (cx, _), (x, y) = nets()[data]
    n = 20 if quick else 100
    fitted = detector.fit(net, cx, fpr=0.05)
    held = proportion(int(fitted.flags(fitted.scores(net, x)).sum()), len(x))
    rows = {"calibration": fitted.n, "threshold": fitted.threshold, "held_out_fpr": held, "attacks": {}}
    print(data, "threshold", fitted.threshold, "held-out FPR", held, flush=True)
    x, y = x[:n], y[:n]
    right = net(x).argmax(1) == y
    for attack_name, (attack, threat) in attacks(data).items():
        found = attack(net, x, sp.Untargeted(y), threat, generator=torch.Generator().manual_seed(0))
        fooled = right & (net(found).argmax(1) != y) & threat.contains(x, found)
        caught = proportion(int(fitted.flags(fitted.scores(net, found))[fooled].sum()), int(fooled.sum()))
        rows["attacks"][attack_name] = {"attack": str(attack), "threat": str(threat), "detected": caught}
        print("  ", attack_name, "detected", caught, flush=True)
    x, y = x[: n // 2], y[: n // 2]  # the adaptive attack is the dear part
    for eps in budgets:
        stack = Stack(net, detectors=[fitted])
        outcome = sp.evaluate_stack(stack, x, y, sp.ThreatModel("linf", eps), effort=effort(quick))
        rows[f"adaptive linf {eps}"] = short(outcome)
        save(name, out | {data: rows})
        print("  adaptive", eps, outcome.summary, flush=True)
    out[data] = rows


# --- 2: JPEG --------------------------------------------------------------------


def jpeg(quick: bool) -> None:
    """Naive gain, adaptive loss; the surrogate beside the identity, on the same images with the same restarts."""
    from sparring.defenses.attacking.objectives import Wrong
    from sparring.defenses.attacking.pursuit import pursue
    from sparring.defenses.attacking.stages import Stage

    net, _, (x, y) = nets()["fashion"]
    x, y = x[: 20 if quick else 80], y[: 20 if quick else 80]
    out: dict = {}
    for quality in (75,):
        for eps in ("4/255", "8/255"):
            stack, threat = Stack(net, [t.JPEG(quality=quality)]), sp.ThreatModel("linf", eps)
            naive = ("fgsm", "deepfool", "pgd:steps=40", "pgd:steps=40,early_stop=false")
            fixed = ("pgd:steps=40",) if quick else naive
            outcome = sp.evaluate_stack(stack, x, y, threat, naive=fixed, effort=effort(quick))
            out[f"quality {quality}, eps {eps}"] = row = short(outcome)
            print(quality, eps, outcome.summary, flush=True)
            scene = _scene(stack, x, y, threat)
            for gradient in ("declared", "identity"):
                found, _ = pursue(scene, [Stage(gradient, Wrong(), 100, 2, gradient=gradient)], [], lambda *_: None)
                row[f"only {gradient}"] = proportion(int((found.rate == 1).sum()), len(x))
                row[f"evaded by {gradient}"] = (found.rate == 1).long().tolist()
                print("   only", gradient, "evades", row[f"only {gradient}"], flush=True)
            first, second = (torch.tensor(row.pop(f"evaded by {g}")) == 1 for g in ("declared", "identity"))
            more, fewer = int((first & ~second).sum()), int((~first & second).sum())
            row["paired"] = {"surrogate only": more, "identity only": fewer, "mcnemar": mcnemar(more, fewer)}
            save("jpeg", out)


def _scene(stack: Stack, x: Tensor, y: Tensor, threat: sp.ThreatModel):
    from sparring.defenses.adaptive import _scene as build
    from sparring.defenses.adaptive import _Task

    return build(_Task(stack, x, y, threat, 0, 50), 64)


# --- 3: random transforms ----------------------------------------------------------


def random(quick: bool) -> None:
    net, _, (x, y) = nets()["fashion"]
    n = 10 if quick else 60
    x, y, out = x[:n], y[:n], {}
    threat = sp.ThreatModel("linf", 0.1)
    stacks = {
        "undefended": [],
        "resize_pad": [t.ResizePad()],
        "resize_back": [t.ResizeBack()],
        "noise 0.1": [t.Noise(std=0.1)],
    }
    for name, layers in stacks.items():
        outcome = sp.evaluate_stack(Stack(net, layers), x, y, threat, effort=effort(quick))
        out[name] = short(outcome)
        print(name, outcome.summary, [(c.draws, str(c.adaptive)) for c in outcome.convergence], flush=True)
        save("random", out)


# --- 4: beside a hand-written adaptive PGD ---------------------------------------


def rival(quick: bool) -> None:
    out: dict = {}
    tried = {}
    for data, (net, (cx, _), (x, y)) in nets().items():
        threat = sp.ThreatModel("linf", 0.2 if data == "mnist5k" else 0.05)
        used = ("feature_squeezing", "lid", "kernel_density")
        used = ("feature_squeezing", "max_softmax", "mahalanobis") if data == "mnist5k" else used
        fit = {name: d.DETECTORS[name]().fit(net, cx[:600], fpr=0.05, threat=threat) for name in used}
        if data == "mnist5k":
            several = [fit["max_softmax"], fit["feature_squeezing"], fit["mahalanobis"]]
            stacks = {"bit depth 3 + softmax, squeezing, mahalanobis": Stack(net, [t.BitDepth(bits=3)], several)}
        else:
            stacks = {
                "median + squeezing": Stack(net, [t.Median()], [fit["feature_squeezing"]]),
                "blur + lid": Stack(net, [t.GaussianBlur(sigma=0.7)], [fit["lid"]]),
                "jpeg 50 + kernel density": Stack(net, [t.JPEG(quality=50)], [fit["kernel_density"]]),
            }
        tried |= {f"{data}: {name}": (stack, x, y, threat) for name, stack in stacks.items()}
    robust = zoo.load("small-pgd")
    fx, fy = zoo.fashion("test")
    soft = d.MaxSoftmax().fit(robust, fx[:1000])
    held = sp.ThreatModel("linf", 0.1)
    tried["fashion, pgd-trained: bit depth 4 + softmax"] = (
        Stack(robust, [t.BitDepth(bits=4)], [soft]),
        fx[5000:],
        fy[5000:],
        held,
    )
    for name, (stack, x, y, threat) in tried.items():
        n = 10 if quick else 24
        x, y = x[:n], y[:n]
        start = time.process_time()
        ours = sp.evaluate_stack(stack, x, y, threat, effort=effort(quick))
        middle = time.process_time()
        theirs = defenses_rival.evasions(stack, x, y, threat.eps, steps=10 if quick else 100, gradients=("declared",))
        end = time.process_time()
        mine = torch.tensor([record.adaptive == 1 for record in ours.records])
        out[name] = {
            "ours": int(mine.sum()),
            "hand_written": int(theirs.sum()),
            "n": n,
            "ours_only": int((mine & ~theirs).sum()),
            "hand_written_only": int((~mine & theirs).sum()),
            "ours_cpu_s": round(middle - start, 1),
            "hand_written_cpu_s": round(end - middle, 1),
            "summary": ours.summary,
            "notes": list(ours.notes),
            "stages": [(s.name, s.tried, s.evaded, round(s.seconds, 1)) for s in ours.stages],
        }
        print(name, {k: v for k, v in out[name].items() if k not in ("stages", "notes")}, flush=True)
        save("rival", out)


# --- 5: latency -----------------------------------------------------------------------


def _medians(calls: dict[str, object], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(own) for name, own in times.items()}


def _pillow(pixels: np.ndarray) -> None:
    def one(picture: np.ndarray) -> None:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=75)
        np.asarray(Image.open(file))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(one, pixels))


def latency(quick: bool) -> None:
    repeats, out = (3 if quick else 15), {}
    net = sp.load_model("imagenet-lite0") if not quick else zoo.load("small-standard")
    shape = (3, 224, 224) if not quick else (1, 28, 28)
    x = torch.rand(32, *shape)
    squeezers = (t.BitDepth(bits=5), t.Median(size=2))
    stack = Stack(net, [], [d.FeatureSqueezing(squeezers=squeezers).fit(net, x[:20])])
    for batch in (1, 32):
        part = x[:batch]

        def bare(part: Tensor = part) -> None:
            with torch.no_grad():
                net(part)

        found = _medians({"bare": bare, "stack": lambda part=part: stack(part)}, repeats)
        out[f"squeezing, batch {batch}"] = found | {"ratio": found["stack"] / found["bare"]}
    pictures = torch.rand(32, 3, 224, 224)
    smooth = t.GaussianBlur(sigma=2)(pictures)  # noise is not what JPEG files hold
    pixels = (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    found = _medians({"pillow": lambda: _pillow(pixels), "ours": lambda: t.JPEG().run(smooth, None)}, repeats)
    out["jpeg, 32 x 224 x 224"] = found | {"ratio": found["ours"] / found["pillow"]}
    print(json.dumps(out, indent=1))
    save("latency", out)


PARTS = {
    "squeezing": squeezing,
    "one_bit": one_bit,
    "gentle": gentle,
    "jpeg": jpeg,
    "random": random,
    "rival": rival,
    "latency": latency,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts:
        PARTS[name](options.quick)


if __name__ == "__main__":
    main()
