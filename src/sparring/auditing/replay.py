"""A few lines of Python per finding that show it again, with nothing but sparring's public names and torch.

They show the same phenomenon on the same model and data; where the audit drew a sample, the numbers differ a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparring.attacks import ATTACKS, FGSM, Attack, RandomNoise
from sparring.auditing import replay_preflight, replay_strength
from sparring.auditing.checks import GRADIENT_FREE, WHOLE_BOX_ATTACKS, iterative, survivors_of, whole_box
from sparring.auditing.replay_preflight import FEW
from sparring.auditing.report import Comparison, Finding
from sparring.auditing.request import Request
from sparring.auditing.strength import QUERIES
from sparring.budget import parse_number
from sparring.diagnosis.indirect import known
from sparring.evaluation import Evaluation, Record
from sparring.threat import Threat, ThreatModel

DETOUR_FIT = 32
"""Images that a script's detours are fitted to."""
ROWS = 16
"""Images a script names one by one, at most."""


def with_replay(
    finding: Finding, request: Request, evaluation: Evaluation, comparison: Comparison | None = None
) -> Finding:
    """The finding with its script."""
    if finding.code == "robustness-fell" and comparison is not None:
        rows = [changed.index for changed in comparison.newly_broken]
        lines = _on_rows(request, rows, request.used(evaluation))
    else:
        lines = _SCRIPTS[finding.code](request, evaluation)
    return finding.model_copy(update={"replay": "\n".join([*_preamble(finding.code, request), *lines, ""])})


def _preamble(code: str, request: Request) -> list[str]:
    lines = ["import torch", "", "import sparring as sp", ""]
    if request.setup is None:
        given = "model, images, labels" + ("" if request.targets is None else ", targets")
        given += "" if getattr(request.threat, "mask", None) is None else ", mask"
        lines.append(f"# {given}: as audited ({_comment(request.model_name)} on {_comment(request.data_name)})")
    else:
        lines += request.setup.rstrip("\n").splitlines()
    if request.adapted and code not in _ABOUT_THE_MODEL_AS_IT_IS:
        lines.append('model = sp.model.OutputAdapter(model, "probabilities")')
    detours = getattr(request.model, "detours", None)
    if detours and code not in _ABOUT_ITS_OWN_GRADIENT:
        lines += ["from sparring.diagnosis.detours import Detour, Detoured", ""]
        lines.append(f"model = Detoured(model, {detours!r}, images[:{DETOUR_FIT}])")
    return [*lines, f"threat = {_threat(request.threat)}", ""]


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _threat(threat: Threat) -> str:
    if type(threat).__module__.startswith("sparring.perturbations."):
        return f"sp.perturbations.{threat!r}"
    if not isinstance(threat, ThreatModel):
        return f"...  # {_comment(repr(threat))}"
    text = threat.eps_text
    eps = repr(text) if "/" in text and parse_number(text) == threat.eps else repr(threat.eps)
    box = "" if threat.bounds == (0.0, 1.0) else f", bounds={threat.bounds}"
    return f"sp.ThreatModel({threat.norm!r}, {eps}{box}{'' if threat.mask is None else ', mask=mask'})"


def _specs(attacks: Sequence[Attack]) -> str:
    return repr([str(attack) for attack in attacks])


def _evaluate(request: Request, attacks: str, *, part: str = "", threat: str = "threat") -> str:
    targets = "" if request.targets is None else f", targets=targets{part}"
    return f"sp.evaluate(model, images{part}, labels{part}, {threat}, attacks={attacks}{targets}, seed={request.seed})"


def _on_rows(request: Request, rows: Sequence[int], attacks: Sequence[Attack], threat: str = "threat") -> list[str]:
    """Chosen images, `ROWS` at most, under some attacks: how many stand."""
    lines = [
        f"rows = {list(rows[:ROWS]) or list(range(min(ROWS, len(request.labels))))}",
        "images, labels = torch.cat([images[i : i + 1] for i in rows]), labels[rows]",
    ]
    if request.targets is not None:
        lines.append("targets = targets[rows]")
    return [*lines, f"print({_evaluate(request, _specs(attacks), threat=threat)}.robust_accuracy)"]


def _evasion(request: Request, evaluation: Evaluation) -> list[str]:
    broken = [r for r in evaluation.records if r.broken_by]
    record = min([r for r in broken if " " not in (r.broken_by or "")] or broken, key=_effort)
    part = f"[{record.index}:{record.index + 1}]"
    return [
        f"evaluation = {_evaluate(request, repr([record.broken_by]), part=part)}",
        "print(evaluation.records[0])",
    ]


def _effort(record: Record) -> tuple[int, int]:
    return record.forwards + record.backwards, record.index


def _no_target(request: Request, evaluation: Evaluation) -> list[str]:
    del request, evaluation
    return ["print((targets != labels).sum().item(), 'of', len(labels), 'images have a target to reach')"]


def _no_gradient(request: Request, evaluation: Evaluation) -> list[str]:
    del request, evaluation
    return [
        "try:",
        "    sp.attacks.FGSM()(model, images[:1], sp.Untargeted(labels[:1]), threat)",
        "except sp.SparringError as error:",
        "    print(error)",
    ]


def _curve(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    threat = request.threat
    budget = f"norm={threat.norm!r}, eps=[{threat.eps!r}], bounds={threat.bounds}"
    budget += "" if getattr(threat, "mask", None) is None else ", mask=mask"
    budget += "" if request.targets is None else ", targets=targets"
    return [
        'for attacks in (["fgsm"], None):',
        f"    options = dict({budget}, seed={request.seed})",
        "    print(sp.robustness_curve(model, images, labels, attacks=attacks, **options).accuracy)",
    ]


def _paired(weak: type[Attack]) -> Callable[[Request, Evaluation], list[str]]:
    def script(request: Request, evaluation: Evaluation) -> list[str]:
        weaker = [attack for attack in request.used(evaluation) if isinstance(attack, weak)]
        stronger = [a for a in request.used(evaluation) if a.access == "gradients" and not isinstance(a, FGSM)]
        return [
            f"for attacks in ({_specs(weaker)}, {_specs(stronger)}):",
            f"    print(attacks, {_evaluate(request, 'attacks')}.attack_success_rate)",
        ]

    return script


def _unbounded(request: Request, evaluation: Evaluation) -> list[str]:
    box = _threat(whole_box(request.threat, request.images[0:1][0].numel()))
    return _on_rows(request, survivors_of(request, evaluation), WHOLE_BOX_ATTACKS, box)


def _gradient_free(request: Request, evaluation: Evaluation) -> list[str]:
    search = [a for a in request.used(evaluation) if a.access != "gradients" and not isinstance(a, RandomNoise)]
    fallen = [r.index for r in evaluation.records if r.broken_by in {str(attack) for attack in search}]
    return _on_rows(request, fallen or survivors_of(request, evaluation), search or (GRADIENT_FREE,))


def _proof(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    return [
        'proof = sp.certify(model, images, labels, threat, method="crown-ibp")',
        f"attacked = {_evaluate(request, _specs(request.attacks[:4]))}",
        "both = [r.index for r in attacked.records if r.broken_by and proof.certified[r.index]]",
        'print("proved:", int(proof.certified.sum()), "broken all the same:", both)',
    ]


def _doubled(request: Request, evaluation: Evaluation) -> list[str]:
    strong = [a for a in iterative(request, evaluation) if hasattr(a, "steps")]
    targets = "" if request.targets is None else f", targets=targets[:{FEW}]"
    return replay_strength.doubled(str(strong[-1]), f"[:{FEW}]", targets)


def _curve_beyond(request: Request, evaluation: Evaluation) -> list[str]:
    lines = _curve(request, evaluation)
    return [
        line.replace(f"eps=[{request.threat.eps!r}]", f"eps=[{request.threat.eps!r}, {3 * request.threat.eps!r}]")
        for line in lines
    ]


def _best_seen(request: Request, evaluation: Evaluation) -> list[str]:
    own = [str(a) for a in request.used(evaluation) if not known(type(a), ATTACKS)]
    return [
        "from sparring.diagnosis.indirect import BestSeen",
        "",
        f"attack = sp.attacks.parse({(own or ['pgd'])[0]!r})",
        "for tried in (attack, BestSeen(attack)):",
        f"    print(tried, {_evaluate(request, '[tried]')}.attack_success_rate)",
    ]


def _notes(request: Request, evaluation: Evaluation) -> list[str]:
    return [
        f"evaluation = {_evaluate(request, _specs(request.used(evaluation)))}",
        "for stage in evaluation.stages:",
        "    print(stage.attack, stage.rejected, stage.notes)",
    ]


def _again(request: Request, evaluation: Evaluation) -> list[str]:
    del evaluation
    targets = "" if request.targets is None else ", targets=targets"
    out = "" if request.out is None else f", out={str(request.out)!r}"
    what = f"attacks={_specs(request.attacks)}" if request.named else f"effort={request.effort!r}"
    asked = f"{what}{targets}, seed={request.seed}{out}"
    return [f"print(sp.audit(model, images, labels, threat, {asked}).headline)"]


_SCRIPTS: dict[str, Callable[[Request, Evaluation], list[str]]] = {
    "evasion": _evasion,
    "probability-outputs": replay_preflight.outputs,
    "train-mode": replay_preflight.train_mode,
    "random-outputs": replay_preflight.randomness,
    "batch-dependence": replay_preflight.company,
    "no-gradient": _no_gradient,
    "zero-gradient": replay_preflight.zero_gradient("margin"),
    "vanishing-cross-entropy": replay_preflight.zero_gradient("cross_entropy"),
    "gradient-misleads": replay_preflight.misleading,
    "blocked-gradient": replay_preflight.misleading,
    "stronger-attack-found": _curve,
    "narrow-input-range": replay_preflight.pixels,
    "single-class-data": replay_preflight.labels,
    "at-chance": replay_preflight.chance,
    "wrong-normalisation": replay_preflight.looks,
    "noise-beats-gradient": _paired(RandomNoise),
    "one-step-beats-many": _paired(FGSM),
    "unbounded-survivors": _unbounded,
    "gradient-free-wins": _gradient_free,
    "search-found-more": _again,
    "certificate-contradicted": _proof,
    "gradient-underflow": lambda request, _: replay_strength.in_double(FEW),
    "unstable-loss": lambda request, _: replay_strength.jumps(FEW, request.threat.bounds),
    "success-does-not-grow": _curve_beyond,
    "more-steps-help": _doubled,
    "transfer-wins": lambda request, _: replay_strength.surrogate(QUERIES, request.seed),
    "surrogate-only": _notes,
    "silent-success": _best_seen,
    "nothing-may-change": _again,
    "nothing-to-attack": _no_target,
    "loss-replaced": _notes,
    "unusable-numbers": _notes,
    "candidates-rejected": _notes,
    "small-sample": replay_preflight.labels,
    "interrupted": _again,
}
_ABOUT_THE_MODEL_AS_IT_IS = (
    "probability-outputs",
    "train-mode",
    "random-outputs",
    "batch-dependence",
    "wrong-normalisation",
)
_ABOUT_ITS_OWN_GRADIENT = (*_ABOUT_THE_MODEL_AS_IT_IS, "no-gradient", "zero-gradient", "gradient-misleads")
