"""Every finding an audit can raise: what it means, why it matters, what to do. The documentation is made from this."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.auditing.references import ATHALYE, ATLAS_EVADE, ATLAS_WHITE_BOX, CARLINI, CROCE, NIST_EVASION
from sparring.auditing.report import Finding, Reference, Severity


@dataclass(frozen=True)
class Kind:
    """One kind of finding. `explanation` is its documentation page; `remedy` the one-line fix."""

    code: str
    title: str
    severity: Severity
    explanation: str
    remedy: str
    undermines: bool = False
    references: tuple[Reference, ...] = ()

    def found(
        self, evidence: str, *, severity: Severity | None = None, resolved: bool = False, harmless: bool = False
    ) -> Finding:
        """The finding with its evidence; `resolved` where the audit applied the remedy itself, `harmless` where it
        does not undermine the number this time.
        """
        return Finding(
            code=self.code,
            title=self.title,
            severity=severity or self.severity,
            evidence=evidence,
            remedy=self.remedy,
            undermines=self.undermines and not harmless,
            resolved=resolved,
            references=self.references,
        )


_KINDS = (
    Kind(
        "evasion",
        "Small perturbations change the prediction",
        "critical",
        "An attacker who stays within the declared budget gets a wrong answer from the model. The severity "
        "follows the share of correctly classified images that fell: critical from one half, warning from one "
        "tenth, else a note.",
        "Harden the model by adversarial training for this threat, then audit again.",
        references=(ATLAS_EVADE, ATLAS_WHITE_BOX, NIST_EVASION),
    ),
    Kind(
        "probability-outputs",
        "The model returns probabilities, not logits",
        "critical",
        "Every output row is non-negative and sums to one, so the attack's own softmax would be the second one. "
        "Gradients of a double softmax are so flat that attacks stop early and the model looks robust. The audit "
        "takes the logarithm of the outputs, which undoes the softmax up to a constant, and attacks that; where "
        "the probabilities are exactly 0 or 1 in float32 the logarithm has lost the information and the finding "
        "stays unresolved.",
        'Remove the final softmax, or load the model with outputs="probabilities".',
        undermines=True,
        references=(CROCE,),
    ),
    Kind(
        "train-mode",
        "The model was in training mode",
        "note",
        "Dropout and batch normalisation behave differently while training. The audit evaluates a copy of the "
        "flags switched to evaluation mode and puts them back afterwards.",
        "Call model.eval() before you hand the model over.",
    ),
    Kind(
        "random-outputs",
        "The same images get different logits from call to call",
        "critical",
        "The model is random at inference. One forward pass says little about it: an attack that succeeded once "
        "may fail on the next draw and the reverse, so a single-draw robust accuracy can err in both directions.",
        "Make inference deterministic (eval mode, fixed noise), or attack the average over draws.",
        undermines=True,
        references=(ATHALYE, CARLINI),
    ),
    Kind(
        "batch-dependence",
        "An image's logits depend on the other images in its batch",
        "critical",
        "Batch statistics are used at inference, so an image's verdict changes with its neighbours and the attack"
        " optimises something else than what one request would see.",
        "Use running statistics (track_running_stats=True and eval mode).",
        undermines=True,
        references=(CARLINI,),
    ),
    Kind(
        "no-gradient",
        "The model offers no gradient to its input",
        "critical",
        "Something in the forward pass is not differentiable, detached, or computed under no_grad. Gradient "
        "attacks cannot run; the audit falls back to attacks that need only logits, which are far weaker.",
        "Expose a differentiable path, or name a differentiable stand-in for the blocking step.",
        undermines=True,
        references=(ATHALYE,),
    ),
    Kind(
        "zero-gradient",
        "Input gradients vanish",
        "critical",
        "For some images the gradient of the margin loss is exactly zero in every pixel: rounding, hard "
        "saturation or dead activations hide the direction from every gradient attack. Their survival proves "
        "nothing.",
        "Smooth or remove the saturating step, or attack with gradient-free methods.",
        undermines=True,
        references=(ATHALYE, CROCE),
    ),
    Kind(
        "gradient-misleads",
        "The gradient does not say how the model changes",
        "critical",
        "Small steps along the input gradient change the margin by far less than the gradient promises, or the other "
        "way. Something in the forward pass has a false or shattered gradient, every gradient attack walks in a wrong "
        "direction, and the images that survive it prove nothing.",
        "Find the step whose gradient is wrong (custom backward, noise, shattering transform); attack around it.",
        undermines=True,
        references=(ATHALYE,),
    ),
    Kind(
        "blocked-gradient",
        "A part of the model blocks or distorts the gradient",
        "critical",
        "Hooks on every submodule saw where the gradient ends: rounding, a codec, a saturated activation, code outside "
        "of autograd. The audit let the gradient go around it (BPDA: the forward pass stays what it is, backward a "
        "smoothed slope, an affine map or the identity stands in), and a short attack became clearly stronger. All "
        "attacks then used that detour, and a search without gradients followed on what stood.",
        "Name the part to whoever claims robustness for it; a better stand-in can be named with sp.bpda.",
        undermines=True,
        references=(ATHALYE,),
    ),
    Kind(
        "stronger-attack-found",
        "The audit's own curve found a stronger attack",
        "critical",
        "The attacks that were asked for leave more images standing than the audit's standard PGD curve does at the "
        "same budget. The robust accuracy at the head of the report is too high; the curve is nearer the truth.",
        "Choose an effort instead of naming weak attacks, or name stronger ones.",
        undermines=True,
        references=(CARLINI,),
    ),
    Kind(
        "vanishing-cross-entropy",
        "Cross-entropy gradients vanish where margin gradients do not",
        "warning",
        "The logits are so large that softmax saturates in float32: the cross-entropy has no gradient although "
        "the margin does. Attacks on cross-entropy alone would report a robustness that is not there. The audit's"
        " attacks on the margin are not affected; the finding is resolved when they were part of it.",
        'Attack with loss="margin" or "dlr" (the audit does), and never quote cross-entropy PGD alone.',
        undermines=True,
        references=(CROCE, ATHALYE),
    ),
    Kind(
        "narrow-input-range",
        "The images use a sliver of the declared range",
        "warning",
        "The pixel values span less than a tenth of the declared bounds. Usually the images were divided twice, "
        "or the bounds are those of another scale; eps then means something else than intended.",
        "Pass images that fill the bounds, or declare the bounds they really have.",
    ),
    Kind(
        "single-class-data",
        "All labels are the same class",
        "warning",
        "A constant answer would score 100 % on this set, so neither clean nor robust accuracy says anything "
        "about the classifier.",
        "Audit on images of several classes.",
        undermines=True,
    ),
    Kind(
        "at-chance",
        "Clean accuracy is no better than always answering the commonest class",
        "critical",
        "Before any attack the model does no better than a constant answer. The label order, the normalisation or"
        " the weights are most likely wrong, and the robust accuracy of a model that does not work is "
        "meaningless.",
        "Check label order, normalisation (mean, std) and weights before attacking.",
        undermines=True,
    ),
    Kind(
        "wrong-normalisation",
        "The model does clearly better with differently scaled inputs",
        "critical",
        "On the same images another common preprocessing gives significantly higher accuracy (McNemar p < 0.001 "
        "and at least five points), so the model was probably trained with that one. An attack on a mis-fed model"
        " measures nothing.",
        "Load the model with the preprocessing named in the evidence, so that normalisation lives inside it.",
        undermines=True,
    ),
    Kind(
        "noise-beats-gradient",
        "Random noise breaks images that gradient attacks cannot",
        "critical",
        "Uniform noise within the budget found wrong answers that the gradient attacks missed on the same images."
        " A working gradient never loses to noise: the gradient is masked, and the real robustness is lower than "
        "the number here.",
        "Look for what hides the gradient (rounding, randomness, saturation) and attack around it.",
        undermines=True,
        references=(ATHALYE, CARLINI),
    ),
    Kind(
        "one-step-beats-many",
        "One gradient step breaks images that many small steps cannot",
        "critical",
        "FGSM found wrong answers that the iterative attacks missed on the same images. With a truthful gradient "
        "many small steps do at least as well as one big one, so the loss surface is distorted around the images,"
        " as after single-step adversarial training.",
        "Attack with more restarts, larger steps, no gradient; retrain with PGD if it was trained on FGSM.",
        undermines=True,
        references=(ATHALYE, CARLINI),
    ),
    Kind(
        "unbounded-survivors",
        "Some images survive an attacker who may change everything",
        "critical",
        "With a budget as large as the whole box every image can be turned into any other, so a working attack "
        "breaks every image. Some survived: the attack is blind here, and may be blind at the real budget too.",
        "Look for vanishing or masked gradients; do not quote the robust accuracy before this is explained.",
        undermines=True,
        references=(ATHALYE, CARLINI),
    ),
    Kind(
        "gradient-free-wins",
        "An attack without gradients breaks images that gradient attacks could not",
        "critical",
        "The Square attack, which asks for logits only, was set on images that had survived every other attack, and "
        "broke at least one point of all images among them. Gradient attacks know more and should not lose: the "
        "gradient is masked, or they were too weak, and the robust accuracy at the head of the report is too high.",
        "Choose a higher effort; look for what hides the gradient (rounding, randomness, saturation).",
        undermines=True,
        references=(ATHALYE, CROCE),
    ),
    Kind(
        "search-found-more",
        "A search without gradients broke images that gradients had not",
        "warning",
        "On some images a small step along the gradient does not do what the gradient says, or a random sample that "
        "gradient attacks had left standing fell to a search that asks for logits only. Such a search is weak: there "
        "may be more that it did not find.",
        "Look for what hides the gradient (rounding, randomness, saturation) and attack around it: BPDA, EOT, another "
        "loss; or choose effort thorough.",
        references=(ATHALYE, CROCE),
    ),
    Kind(
        "nothing-may-change",
        "The attacker may change nothing",
        "critical",
        "With a budget of zero, or a mask that is false everywhere, every image is its own only candidate: what is "
        "called robust accuracy here is clean accuracy.",
        "State the budget of the attacker you expect, for example --eps 8/255.",
        undermines=True,
        references=(CARLINI,),
    ),
    Kind(
        "robustness-fell",
        "Fewer images stand than in the baseline report",
        "warning",
        "Of the images that this report shares with the baseline, at least one point more have become breakable than "
        "unbreakable, and McNemar's test gives p < 0.01: chance does not explain it. The comparison names the images "
        "and says what else differs between the two audits.",
        "Look at what changed since the baseline: the model, its input pipeline, or the attacks.",
    ),
    Kind(
        "loss-replaced",
        "A loss had to be replaced",
        "note",
        "The model has too few classes for the difference-of-logits-ratio loss (three untargeted, four targeted),"
        " and the margin loss stood in for it.",
        "Nothing to do; the replacement is at least as strong with so few classes.",
        references=(CROCE,),
    ),
    Kind(
        "unusable-numbers",
        "NaN or infinity came out of the model or its gradient",
        "warning",
        "Some answers or gradients were not finite. NaN answers never count as a success of the attack and NaN "
        "gradients are taken as zero, so the images concerned may look safer than they are.",
        "Find the overflow in the model (half precision, exp, division) and audit again.",
        undermines=True,
    ),
    Kind(
        "candidates-rejected",
        "An attack returned images outside the budget or the box",
        "warning",
        "The driver measures every candidate in float64 and threw these away. They count as failures of the "
        "attack, so a repaired attack may find more.",
        "Repair the attack: project with problem.region.project before returning.",
        undermines=True,
    ),
    Kind(
        "small-sample",
        "Few images: the interval is wide",
        "note",
        "With fewer than 100 images the 95 % interval of a proportion is up to twenty points wide or more.",
        "Audit at least a few hundred images.",
    ),
    Kind(
        "interrupted",
        "The audit was interrupted",
        "warning",
        "What stands here was measured, but not every attack or check ran on every image. While attacks are missing "
        "the robust accuracy is a looser upper bound than a finished audit would give, and can't be believed. Where "
        "only curves and checks are missing the number stands; a blind attack might go unnoticed.",
        "Run the same command again: it goes on from the stored records.",
        undermines=True,
    ),
)

FINDINGS: dict[str, Kind] = {kind.code: kind for kind in _KINDS}
"""Code to kind. A new finding is one entry here; its documentation page is generated."""
