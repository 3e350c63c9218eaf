"""Where each transform, detector, training method and certificate ends, and what to read beside it.

A new entry of a table needs a line here: a test asks for it.
"""

from __future__ import annotations

from scripts.docs_entry import Note

TRANSFORMS = {
    "jpeg": Note(
        limit="An attacker who differentiates through the codec's surrogate, or past it. On Fashion-MNIST at linf "
        "8/255 "
        "a net keeps 81 % of the images when DeepFool's pictures are replayed through quality 75, and 32.5 % "
        "[23.2, 43.4] against the adaptive attack: [measured](../defenses.md#jpeg).",
        near=("transforms/bit_depth", "transforms/total_variation", "detectors/feature_squeezing", "defenses#jpeg"),
    ),
    "gaussian_blur": Note(
        limit="Smooth perturbations: what varies slowly across the picture passes almost unchanged. It is a linear "
        "filter, so an attacker's gradient goes through it exactly.",
        near=("transforms/median", "transforms/non_local_means", "transforms/total_variation", "defenses"),
    ),
    "median": Note(
        limit="Changes of whole neighbourhoods. It removes single odd pixels; an attacker who differentiates through "
        "it "
        "moves the neighbours along.",
        near=("transforms/gaussian_blur", "transforms/bit_depth", "detectors/feature_squeezing", "attacks/jsma"),
    ),
    "bit_depth": Note(
        limit="Changes that carry a value across a rounding threshold, which it makes larger. One bit withstands much "
        "on digits that are black and white, and ruins pictures that are not: "
        "[measured](../defenses.md#feature-squeezing). Without its surrogate the gradient is zero, which looks like "
        "robustness and is [masking](../findings/zero-gradient.md).",
        near=("transforms/colour8", "transforms/median", "detectors/feature_squeezing", "attacks/grid"),
    ),
    "colour8": Note(
        limit="As `bit_depth`. A grey picture keeps its 256 levels, so there it does next to nothing.",
        near=("transforms/bit_depth", "detectors/feature_squeezing"),
    ),
    "resize_pad": Note(
        limit="An attacker who averages over its draws. On Fashion-MNIST at linf 0.1 it leaves 5.7 % [2.4, 11.3] "
        "against "
        "naive and 1.5 % [0.5, 3.5] against adaptive attacks: [measured](../defenses.md#random-transforms).",
        near=("transforms/resize_back", "transforms/noise", "attacks/eot", "attacks/difgsm"),
    ),
    "resize_back": Note(
        limit="An attacker who averages over its draws. On Fashion-MNIST at linf 0.1 it leaves 6.0 % [1.9, 13.7] "
        "against "
        "naive and 2.9 % [0.6, 8.3] against adaptive attacks: [measured](../defenses.md#random-transforms).",
        near=("transforms/resize_pad", "transforms/noise", "attacks/eot"),
    ),
    "noise": Note(
        limit="An attacker who averages over its draws: on Fashion-MNIST at linf 0.1, with `std` 0.1, 5.7 % [1.5, "
        "14.3] "
        "are left: [measured](../defenses.md#random-transforms). One noisy answer is no certificate; a vote over "
        "many, of a model trained for it, can be: [smoothing](../certificates/smoothing.md).",
        near=("transforms/resize_pad", "certificates/smoothing", "training/gaussian", "attacks/eot"),
    ),
    "total_variation": Note(
        limit="An attacker who differentiates through its iterations: autograd sees all of them. Fine detail that the "
        "model needs goes with the noise, so look at the clean accuracy.",
        near=("transforms/non_local_means", "transforms/gaussian_blur", "transforms/jpeg", "defenses"),
    ),
    "non_local_means": Note(
        limit="An attacker who holds its weights constant in the backward pass, as the surrogate does, or goes past "
        "it.",
        near=("transforms/total_variation", "transforms/median", "detectors/feature_squeezing"),
    ),
}

DETECTORS = {
    "feature_squeezing": Note(
        limit="Changes that squeezing does not undo, and an attacker who makes all versions agree. On Fashion-MNIST it "
        "flags 29.1 % of FGSM's successes and 5.7 % of BIM's: [measured](../defenses.md#feature-squeezing).",
        near=("transforms/bit_depth", "transforms/median", "transforms/non_local_means", "detectors/odds"),
    ),
    "max_softmax": Note(
        limit="Attacks that go on to the surest wrong answer, such as `pgd:early_stop=false`.",
        near=("detectors/margin", "detectors/energy", "attacks/pgd"),
    ),
    "margin": Note(
        limit="Attacks that go on until the wrong class leads by far, such as `pgd:early_stop=false,loss=margin`.",
        near=("detectors/max_softmax", "detectors/energy", "attacks/pgd"),
    ),
    "energy": Note(
        limit="Attacks that raise the logits. It was proposed for images of another kind, not for attacked ones.",
        near=("detectors/max_softmax", "detectors/margin"),
    ),
    "mahalanobis": Note(
        limit="An attacker who imitates the features of a clean image of another class: a stage of "
        "[the adaptive attack](../defenses.md#how-a-stack-is-attacked).",
        near=("detectors/kernel_density", "detectors/lid", "defenses#how-a-stack-is-attacked"),
    ),
    "kernel_density": Note(
        limit="An attacker who puts the density into the loss "
        "([Carlini & Wagner 2017](https://arxiv.org/abs/1705.07263)).",
        near=("detectors/mahalanobis", "detectors/lid", "defenses#how-a-stack-is-attacked"),
    ),
    "lid": Note(
        limit="Attacks unlike those it learned from; broken by [Athalye et al. "
        "2018](https://arxiv.org/abs/1802.00420).",
        near=("detectors/mahalanobis", "detectors/kernel_density", "detectors/statistics"),
    ),
    "odds": Note(
        limit="An attacker who imitates the logits of a clean image: broken by "
        "[Tramèr et al. 2020](https://arxiv.org/abs/2002.08347). It asks the model `draws` times more.",
        near=("detectors/feature_squeezing", "detectors/margin", "transforms/noise"),
    ),
    "reconstruction": Note(
        limit="Changes that the autoencoder repeats; broken by "
        "[Carlini & Wagner 2017](https://arxiv.org/abs/1711.08478).",
        near=("detectors/feature_squeezing", "detectors/statistics"),
    ),
    "statistics": Note(
        limit="Attacks unlike those it learned from, and those that have its measurements in the loss "
        "([Carlini & Wagner 2017](https://arxiv.org/abs/1705.07263), on ten detectors of their time).",
        near=("detectors/lid", "detectors/reconstruction"),
    ),
}

TRAINING = {
    "clean": Note(
        limit="Anything. It is the yardstick for accuracy and cost.",
        near=("training/rs_fgsm", "training/pgd", "hardening#which-method"),
    ),
    "fgsm_mix": Note(
        limit="Any attack with several steps: on MNIST at linf 0.3 it keeps 84.1 % under FGSM and 2.8 % [1.9, 4.0] at "
        "standard effort ([measured](../hardening.md#measured)).",
        near=("training/rs_fgsm", "training/n_fgsm", "attacks/fgsm", "hardening#the-watch"),
    ),
    "rs_fgsm": Note(
        limit="Attacks with several steps at large budgets: on MNIST at linf 0.3 one step falls behind "
        "([measured](../hardening.md#measured)). And, as all of these: other norms, larger "
        "budgets, patches, rotations.",
        near=("training/n_fgsm", "training/pgd", "training/free", "hardening#the-watch"),
    ),
    "n_fgsm": Note(
        limit="Large budgets on pictures that are almost black and white, where its noise drowns the picture; other "
        "norms, larger budgets, patches, rotations.",
        near=("training/rs_fgsm", "training/pgd", "hardening#the-watch"),
    ),
    "free": Note(
        limit="Other norms, larger budgets, patches, rotations. Perturbations are made with batch norm in training "
        "mode, and a resumed run of several processes begins them anew.",
        near=("training/rs_fgsm", "training/pgd", "hardening#which-method"),
    ),
    "pgd": Note(
        limit="Other norms, larger budgets, patches, rotations. Trained for too long it loses robustness again (Rice "
        "et "
        "al. 2020): the watch keeps the best epoch.",
        near=("training/trades", "training/mart", "training/rs_fgsm", "attacks/pgd"),
    ),
    "trades": Note(
        limit="Other norms, larger budgets, patches, rotations. A larger `beta` costs clean accuracy.",
        near=("training/pgd", "training/mart", "hardening#which-method"),
    ),
    "mart": Note(
        limit="Other norms, larger budgets, patches, rotations. Your own loss has no place in it.",
        near=("training/trades", "training/pgd", "hardening#which-method"),
    ),
    "certified": Note(
        limit="Other norms and larger budgets than it was trained for. What can be proved costs clean accuracy: on "
        "Fashion-MNIST at linf 0.1 83.2 % are right and 70.6 % proved by CROWN-IBP "
        "([measured](../certification.md#measured)).",
        near=("certificates/ibp", "certificates/crown-ibp", "certificates/crown", "certification#training-for-it"),
    ),
    "gaussian": Note(
        limit="The bare model: what it prepares is the smoothed one, and that in l2 only.",
        near=("certificates/smoothing", "transforms/noise", "training/certified"),
    ),
}

CERTIFICATES = {
    "crown": Note(
        limit="Images it leaves unproved: they may stand all the same. Layers with more than `work` values keep their "
        "interval bounds, so on large nets it comes close to `crown-ibp`.",
        near=("certificates/crown-ibp", "certificates/ibp", "training/certified", "certification#the-bracket"),
    ),
    "crown-ibp": Note(
        limit="Images it leaves unproved: they may stand all the same. It needs a net trained for it to prove much.",
        near=("certificates/crown", "certificates/ibp", "training/certified"),
    ),
    "ibp": Note(
        limit="Images it leaves unproved: they may stand all the same. Intervals grow with every layer; on a net that "
        "was not trained for them they prove next to nothing at an ordinary budget.",
        near=("certificates/crown-ibp", "certificates/crown", "training/certified"),
    ),
    "smoothing": Note(
        limit="Anything of the bare model: it speaks of the smoothed one, with a small probability of being wrong. "
        "Norms other than l2. Radii above its ceiling, whatever the model.",
        near=("training/gaussian", "transforms/noise", "certificates/lipschitz", "certification#smoothing"),
    ),
    "lipschitz": Note(
        limit="Images it leaves unproved: they may stand all the same. One number for the whole input space is far "
        "larger than the slope at any image, and the box is not used.",
        near=("certificates/crown", "certificates/smoothing", "diagnosis"),
    ),
}
