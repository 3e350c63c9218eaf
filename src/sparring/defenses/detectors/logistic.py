"""A logistic regression on standardised features, kept as arrays."""

from __future__ import annotations

import torch
from torch import Tensor


def fitted_logistic(clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
    """Scikit-learn's logistic regression between rows of clean and of attacked features (N, F), as plain arrays."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows = torch.cat([clean, attacked]).double().cpu().numpy()
    truth = [0] * len(clean) + [1] * len(attacked)
    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(max_iter=1000, class_weight="balanced").fit(scaler.transform(rows), truth)
    arrays = {"centre": scaler.mean_, "scale": scaler.scale_, "weights": model.coef_[0], "offset": model.intercept_}
    return {name: torch.from_numpy(values).to(clean.dtype) for name, values in arrays.items()}


def log_odds(features: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The regression's log-odds (N,) that a row was attacked."""
    standard = (features - state["centre"].to(features)) / state["scale"].to(features)
    return standard @ state["weights"].to(features) + state["offset"].to(features)
