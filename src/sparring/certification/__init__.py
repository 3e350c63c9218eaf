"""Certificates: what no attack can break. Intervals, lines, smoothing, Lipschitz margins, and the bracket."""

from sparring.certification.bracket import Bracket, always_attacked, bracket
from sparring.certification.certificate import Certificate
from sparring.certification.certify import METHODS, certify
from sparring.certification.smoothing import Smoothing

__all__ = ["METHODS", "Bracket", "Certificate", "Smoothing", "always_attacked", "bracket", "certify"]
