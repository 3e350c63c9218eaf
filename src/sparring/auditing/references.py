"""What the findings refer to."""

from __future__ import annotations

from sparring.auditing.report import Reference

ATLAS_EVADE = Reference(
    label="MITRE ATLAS AML.T0015 Evade AI Model", url="https://atlas.mitre.org/techniques/AML.T0015"
)
ATLAS_WHITE_BOX = Reference(
    label="MITRE ATLAS AML.T0043.000 White-Box Optimization", url="https://atlas.mitre.org/techniques/AML.T0043.000"
)
NIST_EVASION = Reference(
    label="NIST AI 100-2 E2025 NISTAML.022 Evasion", url="https://doi.org/10.6028/NIST.AI.100-2e2025"
)
CARLINI = Reference(
    label="Carlini et al. 2019, On Evaluating Adversarial Robustness", url="https://arxiv.org/abs/1902.06705"
)
ATHALYE = Reference(
    label="Athalye et al. 2018, Obfuscated Gradients Give a False Sense of Security",
    url="https://arxiv.org/abs/1802.00420",
)
CROCE = Reference(label="Croce & Hein 2020, AutoAttack", url="https://arxiv.org/abs/2003.01690")
PINTOR = Reference(label="Pintor et al. 2022, Indicators of Attack Failure", url="https://arxiv.org/abs/2106.09947")
PAPERNOT = Reference(
    label="Papernot et al. 2017, Practical Black-Box Attacks against Machine Learning",
    url="https://arxiv.org/abs/1602.02697",
)
