"""Every finding an audit can raise: what it means, why it matters, what to do. The documentation is made from this."""

from __future__ import annotations

from sparring.auditing.kind import Kind
from sparring.auditing.masking import MASKING_KINDS
from sparring.auditing.references import ATLAS_EVADE, ATLAS_WHITE_BOX, CARLINI, CROCE, NIST_EVASION

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
        "certificate-contradicted",
        "An attack broke what our own bounds had proved",
        "critical",
        "Before it attacks, the audit tries to prove images by bounds. What is proved is spared the attacks, but for a "
        "twentieth that is attacked all the same, and the curves attack their sample, too. One of these images fell "
        "within the budget that was proved: the bounds are wrong for this model, an error of ours. The evaluation was "
        "run again with every image attacked, so the upper bound stands, and no lower bound is shown.",
        "Please report it with the model; do not use certificates of this version for it.",
        undermines=True,
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
        "nothing-to-attack",
        "No image was attacked",
        "critical",
        "The audit is targeted, and every image that the model gets right is labelled as the class it is to be turned "
        "into: there was nothing to do for any attack, and what is called robust accuracy here is clean accuracy.",
        "Choose targets that differ from the labels, for example --target least-likely.",
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
    *MASKING_KINDS,
)

FINDINGS: dict[str, Kind] = {kind.code: kind for kind in _KINDS}
"""Code to kind. A new finding is one entry here; its documentation page is generated."""
