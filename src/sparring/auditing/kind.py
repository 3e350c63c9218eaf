"""What a kind of finding is."""

from __future__ import annotations

from dataclasses import dataclass

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
