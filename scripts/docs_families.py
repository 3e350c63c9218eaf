"""Attacks and findings by family: what those of one family have in common, and so what none of them can tell."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.docs_entry import Note


@dataclass(frozen=True, kw_only=True)
class Family:
    """Entries of one table that belong together. limit: what all of them leave open. near: what else to read."""

    title: str
    names: tuple[str, ...]
    limit: str
    near: tuple[str, ...] = ()


ATTACKS = (
    Family(
        title="Gradients, within a budget",
        names=("fgsm", "bim", "pgd", "mifgsm", "apgd", "multi_targeted"),
        limit="Whether the model is robust. A gradient that vanishes, lies or is missing stops all of this family, "
        "and a "
        "saturated softmax stops those that climb the cross-entropy. So an audit looks for "
        "[signs of that](../findings/index.md), and attacks without gradients run beside them.",
        near=("diagnosis#is-it-masking", "attacks/square", "norms-and-losses#the-losses"),
    ),
    Family(
        title="Made on one model, shown to another",
        names=("nifgsm", "difgsm", "tifgsm", "transfer"),
        limit="What an attacker with the model at hand can do. These give up some strength on the model whose "
        "gradients "
        "they use in order to fool others; on that model itself `pgd` and `apgd` are the stronger measurement.",
        near=("attacks/mifgsm", "attacks/pgd", "findings/transfer-wins"),
    ),
    Family(
        title="Smallest change",
        names=("cw", "ead", "jsma", "deepfool", "ddn", "fmn", "fab"),
        limit="That no smaller change exists: a distance found is an upper bound of the smallest one. And since the "
        "points "
        "lie just behind the boundary, a transform in front of the model or rounding to 8 bits moves many of them "
        "back, which says nothing about robustness.",
        near=("attacks/grid", "defenses#jpeg", "certification"),
    ),
    Family(
        title="Queries that see scores",
        names=("square", "nes", "spsa", "simba", "random_search"),
        limit="What an attacker with gradients can do: they need hundreds to thousands of queries per image and "
        "usually "
        "find less. Where they find *more*, the gradients are at fault: "
        "[gradient-free-wins](../findings/gradient-free-wins.md).",
        near=("findings/gradient-free-wins", "bridges#a-service-behind-http", "guard#how-clients-are-watched"),
    ),
    Family(
        title="Queries that see labels only",
        names=("random_noise", "hopskipjump", "boundary"),
        limit="What an attacker with scores or gradients can do. Labels alone are little to go on, and a small number "
        "of "
        "queries finds little on any model.",
        near=("attacks/square", "findings/noise-beats-gradient", "guard#how-clients-are-watched"),
    ),
    Family(
        title="Beyond the ball",
        names=("patch", "worst_of"),
        limit="Anything about small distances, and the way from a print through a camera, which is simulated only as "
        "far "
        "as [Beyond the ball](../beyond-the-ball.md) says.",
        near=("beyond-the-ball", "threat-model"),
    ),
    Family(
        title="Around another attack",
        names=("eot", "grid"),
        limit="More than the attack inside it finds: a wrapper changes what that attack is asked, not how well it "
        "searches.",
        near=("attacks/pgd", "defenses#how-a-stack-is-attacked", "findings/random-outputs"),
    ),
)

FINDINGS = (
    Family(
        title="How the model was fed and read",
        names=(
            "probability-outputs",
            "train-mode",
            "batch-dependence",
            "narrow-input-range",
            "single-class-data",
            "at-chance",
            "wrong-normalisation",
        ),
        limit="These checks run before the first attack, on clean images. Passing them means that nothing is "
        "*obviously* "
        "wrong: compare the clean accuracy with the one you know from training.",
        near=("own-model#what-goes-wrong-most-often",),
    ),
    Family(
        title="Masked gradients",
        names=(
            "random-outputs",
            "no-gradient",
            "zero-gradient",
            "gradient-misleads",
            "blocked-gradient",
            "vanishing-cross-entropy",
            "gradient-underflow",
            "unstable-loss",
            "noise-beats-gradient",
            "one-step-beats-many",
            "unbounded-survivors",
            "gradient-free-wins",
            "search-found-more",
            "success-does-not-grow",
            "transfer-wins",
        ),
        limit="Its absence proves nothing. A defense made to resist exactly these checks passes all of them; attack it "
        "with an [attack of your own](../own-attack.md), made for it.",
        near=("diagnosis#is-it-masking", "for-reviewers", "threat-model#what-would-make-the-number-wrong"),
    ),
    Family(
        title="Strength of the attacks",
        names=(
            "stronger-attack-found",
            "more-steps-help",
            "surrogate-only",
            "silent-success",
            "loss-replaced",
            "certificate-contradicted",
        ),
        limit="Its absence does not mean that the strongest attack was found: robust accuracy stays an upper bound.",
        near=("verdict", "reading-the-report#what-the-number-does-not-say"),
    ),
    Family(
        title="What was measured",
        names=(
            "evasion",
            "nothing-may-change",
            "nothing-to-attack",
            "robustness-fell",
            "unusable-numbers",
            "candidates-rejected",
            "small-sample",
            "interrupted",
        ),
        limit="It speaks of this threat, these images and these attacks, and of nothing else.",
        near=("reading-the-report", "threat-model"),
    ),
)


def family(families: tuple[Family, ...], name: str) -> Family:
    """The family of an entry. Raises `LookupError` for one that has none yet."""
    found = [each for each in families if name in each.names]
    if len(found) != 1:
        raise LookupError(f"{name} must stand in one family of scripts/docs_families.py, found in {len(found)}")
    return found[0]


def note(families: tuple[Family, ...], room: str, name: str) -> Note:
    """What the family leaves open, and the rest of the family beside what it points to."""
    own = family(families, name)
    others = tuple(f"{room}/{other}" for other in own.names if other != name)
    further = tuple(each for each in own.near if each != f"{room}/{name}")
    return Note(limit=own.limit, near=(*others, *further))
