"""The findings that say a gradient is masked, or that the attacks were too weak."""

from __future__ import annotations

from sparring.auditing.kind import Kind
from sparring.auditing.references import ATHALYE, CARLINI, CROCE, PAPERNOT, PINTOR

MASKING_KINDS = (
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
        "gradient-underflow",
        "Gradients are lost in float32",
        "critical",
        "For some images the gradient of the margin is zero, not finite or next to the end of float32's range, while "
        "the same model computed in float64 has one: a sigmoid or a tanh that saturates, or logits of an extreme "
        "scale. Attacks in float32 have nothing to follow. The audit takes the gradients from a copy in float64, each"
        " brought to a size that float32 holds, unless a short attack becomes weaker by that; every verdict is the "
        "model's own.",
        "Scale the logits and the activations to ordinary sizes, or attack in float64.",
        undermines=True,
        references=(ATHALYE, CARLINI),
    ),
    Kind(
        "unstable-loss",
        "The loss is rough on the smallest scale",
        "critical",
        "Random changes of a two-thousandth of the range move the margin nearly as far as changes ten times larger. A"
        " smooth model moves a tenth as far. Rounding, shattering transforms or hidden noise make the loss jump from "
        "pixel value to pixel value, and a gradient says nothing about what lies a step away (unstable predictions, "
        "one of the six indicators of attack failure). Where a part can be gone around the audit does so; everything "
        "that still stands then gets long attacks and a search without gradients.",
        "Attack around the part that makes the loss jump (BPDA), or average over small noise (EOT).",
        undermines=True,
        references=(PINTOR, ATHALYE),
    ),
    Kind(
        "success-does-not-grow",
        "A larger budget breaks no more images",
        "critical",
        "Some images fall at the budget, and at three times that hardly any more, while many stand. Distances of "
        "adversarials spread out, so a working attack breaks more and more images as the budget grows. On those that "
        "stand the attack is blind. They then get long attacks and a search without gradients.",
        "Look at the images that stand: their gradients vanish or mislead.",
        undermines=True,
        references=(CARLINI, ATHALYE),
    ),
    Kind(
        "more-steps-help",
        "More steps or restarts break more images",
        "warning",
        "The longest attack of the evaluation was run again with four times the steps and twice the restarts on a "
        "sample of what stood, and broke at least a point more of all images (incomplete optimisation, one of the "
        "six indicators of attack failure). The audit went on in this way until it no longer helped, and gave everyone "
        "the attack that it ended with; the finding stays open where three rounds were not enough.",
        "Attack with more steps, larger ones, more restarts; or choose a higher effort.",
        undermines=True,
        references=(PINTOR, CARLINI),
    ),
    Kind(
        "transfer-wins",
        "An attack on another model breaks images that gradients could not",
        "critical",
        "A small net learnt from the model's answers, and adversarials made on that net broke images that every attack "
        "with the model's own gradient had left: at least one point of all images. The model's gradient is masked. All "
        "that stood got the same adversarials, long attacks and a search without gradients.",
        "Look for what hides the gradient (rounding, randomness, saturation) and attack around it.",
        undermines=True,
        references=(PAPERNOT, ATHALYE, CARLINI),
    ),
    Kind(
        "surrogate-only",
        "The attacks never asked this model",
        "critical",
        "Attacks that work with gradients made their adversarials without one pass through this model, so they were "
        "made on another one: what they leave standing says how badly adversarials transfer (transfer failure, one of"
        " the six indicators of attack failure), not how robust the model is. The audit's own long attacks on this "
        "model follow.",
        "Attack the model itself, and the whole of it.",
        undermines=True,
        references=(PINTOR, CARLINI),
    ),
    Kind(
        "silent-success",
        "An attack found adversarials and did not return them",
        "warning",
        "On its way the attack showed the model points within the budget that it got wrong, and returned others "
        "(silent success, one of the six indicators of attack failure): it keeps its last iterate instead of its "
        "best. The audit looked at every point that the attack showed the model, and counted those.",
        "Return the best iterate of every image, not the last.",
        undermines=True,
        references=(PINTOR,),
    ),
)
