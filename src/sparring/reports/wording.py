"""The sentences that several renderers share, so that they say the same thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparring.auditing.report import Attacker, Bracket, Changed, Comparison, CostCurve, Report, Visibility
from sparring.reports import numbers
from sparring.reports.selections import undermining

if TYPE_CHECKING:
    from sparring.diagnosis.result import Diagnosis

CAUTION = "The interval covers the sampling of images, not attacks that were too weak."
NO_FINDINGS = "No findings: none of the checks that ran raised anything. That is no proof of robustness."
_INCOMPLETE = (
    "This audit did not finish. The numbers are those of the part that was done; "
    "the attacks that are missing could lower the robust accuracy further."
)
_UNCHECKED = (
    "Every attack ran on every image, so the robust accuracy stands; curves and checks after them are missing, and a "
    "blind attack might go unnoticed."
)

_BUDGETS = {
    "linf": "Every value of the image may change by at most {eps}",
    "l2": "The whole change may have a Euclidean length of at most {eps}",
    "l1": "All changes together may add up to at most {eps}",
    "l0": "At most {eps} values of the image may change, by any amount",
}


def budget(attacker: Attacker) -> str:
    """What the norm and epsilon mean, in words."""
    low, high = attacker.bounds
    words = _BUDGETS.get(attacker.norm, "The change may measure at most {eps} in " + attacker.norm)
    where = f" (values run from {low:g} to {high:g})"
    mask = f"; only here: {attacker.mask}" if attacker.mask else ""
    return words.replace("{eps}", attacker.eps_text) + where + mask + "."


def believable(report: Report) -> str:
    """Whether the robust accuracy can be believed, and why."""
    open_findings = undermining(report)
    if not open_findings:
        return "No open finding undermines the robust accuracy."
    which = "finding undermines" if len(open_findings) == 1 else "findings undermine"
    return f"{len(open_findings)} open {which} the robust accuracy; the true value may be far lower."


def incomplete(report: Report) -> str:
    """What is missing from an audit that did not finish."""
    return _UNCHECKED if report.evaluation.complete else _INCOMPLETE


def missed(report: Report) -> str | None:
    """What the spot check says about images that were spared its attacks."""
    bound = report.evaluation.missed_bound
    if bound is None:
        return None
    checks = [stage.attack for stage in report.evaluation.stages if stage.purpose.startswith("spot check")]
    if bound == 0:
        return "Spot check: every image that was not close to breaking was checked."
    names = " and ".join(dict.fromkeys(checks)) or "stronger attacks"
    return (
        f"Spot check: among the images not close to breaking that were spared them, {names} "
        f"would break at most {numbers.points(bound)} of robust accuracy more (95 % confidence)."
    )


@dataclass(frozen=True)
class Fates:
    """What to call the images that nobody broke, those that an attack broke, and those wrong from the start."""

    standing: str
    broken: str
    wrong: str


def fates(report: Report) -> Fates:
    """The words for the fate of the images, which depend on what the attacker wanted."""
    wrong = "wrong without any attack"
    if report.evaluation.targeted:
        return Fates("right, and not turned into the chosen class", "turned into the chosen class", wrong)
    return Fates("still right after every attack", "broken by an attack", wrong)


def changed(image: Changed) -> str:
    """One image whose verdict changed, in a few words."""
    by = "wrong without any attack" if image.broken_by is None else f"broken by {image.broken_by}"
    return f"image {image.index} (class {image.label}, {by})"


def shared(comparison: Comparison) -> str:
    """Which images were compared, and which could not be."""
    left_out = [
        words
        for count, words in (
            (comparison.only_old, f"{numbers.count(comparison.only_old)} only in the baseline"),
            (comparison.only_new, f"{numbers.count(comparison.only_new)} only here"),
            (comparison.relabelled, f"{numbers.count(comparison.relabelled)} with another label"),
        )
        if count
    ]
    rest = f" Left out: {', '.join(left_out)}." if left_out else ""
    return f"{numbers.counted(comparison.images, 'image')} matched by content.{rest}"


def bracket(found: Bracket) -> str:
    """What is proved, what attacks left, and what lies between."""
    if found.lower is None:
        tried = f" ({numbers.counted(found.tried, 'image')} tried)" if found.tried else ""
        return f"Nothing is proved{tried}: {found.note}."
    counts = ((found.certified, "proved"), (found.broken, "broken or wrong"), (found.unknown, "unknown"))
    images = ", ".join(f"{numbers.count(count)} {words}" for count, words in counts)
    low, high = numbers.percent(found.lower.value), numbers.percent(found.upper.value)
    return (
        f"True robust accuracy on these images: at least {low} (proved by {found.method}), at most {high} ({images})."
    )


def diagnosis(found: Diagnosis) -> list[str]:
    """Why the model falls, in three lines."""
    first, sensitive, healthy = found.first_order, found.sensitivity, found.health
    pays = "nowhere up to twice the budget" if first.stops_paying is None else f"from eps {first.stops_paying:.3g}"
    steepest = max(sensitive.lower, default=0.0)
    bound = "" if sensitive.ratio is None else f", layer norms allow {numbers.significant(sensitive.ratio)} times that"
    flat = f"{numbers.percent(healthy.zero)} have a zero gradient" if healthy.zero else "every image has a gradient"
    return [
        f"Ten small steps beat one {pays}; FGSM lowered the loss of {len(first.lowered)} images.",
        f"A change of length 1 moves the margin by {numbers.significant(steepest)} at the steepest place seen{bound}.",
        f"{flat[0].upper()}{flat[1:]}; neighbours' gradients agree to {healthy.agreement:.2f}; the strongest of three "
        f"losses is {healthy.recommended_loss}.",
    ]


def spared(found: Bracket) -> str:
    """What became of the proved images in the attacks."""
    return (
        f"Of the {numbers.counted(found.certified, 'proved image')} {numbers.count(found.attacked)} "
        f"{'was' if found.attacked == 1 else 'were'} attacked all the same, and stood; the others were spared."
    )


def visibility(seen: Visibility) -> str:
    """How visible the perturbations are, by common rules of thumb for ssim and psnr."""
    ssim, psnr = seen.ssim.median, seen.psnr.median
    if ssim >= 0.98 and psnr >= 38:
        words = "Most are hard to see even side by side with the original."
    elif ssim >= 0.9 and psnr >= 28:
        words = "Most show as faint noise when compared with the original, and are easily overlooked alone."
    elif ssim >= 0.7:
        words = "Most are plainly visible as noise, but the picture stays easy to recognise."
    else:
        words = "Most are strong: people see at once that the picture was changed."
    return f"{words} (Rule of thumb from the medians over {numbers.counted(seen.images, 'broken image')}.)"


def survival(seen: Visibility) -> str | None:
    """How many adversarials can be handed over as picture files."""
    if seen.survive_png is None:
        return None
    share = numbers.with_n(seen.survive_png)
    return f"Saved as 8-bit PNG files and read again, {share}, still fool the model."


def half_cost(cost: CostCurve) -> str | None:
    """At which cost half of all that fell had fallen; None where nothing fell."""
    points = sorted(cost.points, key=lambda p: p.cost)
    if not points or points[-1].broken <= 0:
        return None
    half = next(p for p in points if p.broken >= points[-1].broken / 2)
    return (
        f"{numbers.percent(points[-1].broken)} of the attacked images fell in the end; "
        f"half of those had fallen after {numbers.significant(half.cost)} {cost.unit}."
    )
