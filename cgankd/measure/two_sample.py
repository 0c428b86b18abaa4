"""Can a classifier tell the bank from real images? Its AUC, and the least total variation distance it proves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor


@dataclass(frozen=True)
class TwoSample:
    """AUC of the classifier on rows it has not seen, and its true minus false positive rate there."""

    auc: float
    gap: float


def auc(score_N: Tensor, positive_N: Tensor) -> float:
    """Area under the ROC curve, P(score of a positive > of a negative) + half that of a tie (Mann-Whitney U).

    Scores [N] and booleans [N], with one row at least on either side.
    """
    rank_N = torch.from_numpy(rankdata(score_N.double().numpy()))
    num_positive, num_negative = int(positive_N.sum()), int((~positive_N).sum())
    assert num_positive and num_negative, "an AUC needs positives and negatives"
    wins = float(rank_N[positive_N].sum()) - num_positive * (num_positive + 1) / 2
    return wins / (num_positive * num_negative)


def two_sample(real_NF: Tensor, fake_MF: Tensor, *, seed: int, folds: int = 5) -> TwoSample:
    """Classifier two-sample test (arXiv 1610.06545): logistic regression on standardised features, cross-validated.

    An AUC of 0.5 means that the two sets cannot be told apart by it. The gap, P(called fake | fake) - P(called fake |
    real), is an unbiased estimate of a lower bound of the total variation distance, up to the cross-validation.
    Sides are weighted as if of one size. Needs `folds` rows on either side.
    """
    features = torch.cat([real_NF, fake_MF]).double().numpy()
    is_fake = np.repeat([False, True], [len(real_NF), len(fake_MF)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    chance = cross_val_predict(model, features, is_fake, cv=splitter, method="predict_proba")[:, 1]
    called = chance > 0.5
    gap = float(called[is_fake].mean() - called[~is_fake].mean())
    return TwoSample(auc(torch.from_numpy(chance), torch.from_numpy(is_fake)), gap)
