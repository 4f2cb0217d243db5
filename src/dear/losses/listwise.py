"""Losses that see the passages of a query as one distribution: only differences count."""

from __future__ import annotations

from torch import Tensor

from dear.losses.masking import clean, log_softmax, mean_over, require_positive


def softmax_cross_entropy(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Contrastive cross-entropy of the positives among all passages (LCE, Gao et al. 2021).

    scores: (B, N) logits.  targets: (B, N) grades; above 0 is a positive, at any position.
    mask: (B, N) bool, False on padding.
    Several positives share the target evenly: the mean of their -log softmax(scores), so the
    smallest value is log(number of positives), reached when they score alike.
    Returns a float32 scalar in nats, the mean over queries with a positive and a negative; 0
    where there is none.
    """
    scores, targets = clean(scores, targets, mask)
    positive = ~(targets <= 0) & mask  # NaN counts as both, so that it reaches the loss
    negative = ~(targets > 0) & mask
    shares = positive.float() / positive.sum(dim=1, keepdim=True).clamp(min=1)
    losses = -(shares * log_softmax(scores, mask)).sum(dim=1)
    return mean_over(losses, positive.any(dim=1) & negative.any(dim=1))


def listnet(scores: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the top-one probabilities (ListNet, Cao et al. 2007).

    scores, targets: (B, N) student and teacher logits.  mask: (B, N) bool, False on padding.
    -Σ softmax(targets) log softmax(scores): the gradients of `kl` at temperature 1, and its value
    plus the entropy of the teacher.
    Returns a float32 scalar in nats, the mean over queries with two passages or more; 0 where
    there is none.
    """
    scores, targets = clean(scores, targets, mask)
    teacher = log_softmax(targets, mask).exp()
    losses = -(teacher * log_softmax(scores, mask)).sum(dim=1)
    return mean_over(losses, mask.sum(dim=1) >= 2)


def kl(scores: Tensor, targets: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / T) ‖ softmax(student / T)) (distillation, Hinton et al. 2015).

    scores, targets: (B, N) student and teacher logits.  mask: (B, N) bool, False on padding.
    temperature: T > 0, in logits. Gradients shrink as 1/T²; the factor T² that makes up for it is
        not in here but in the weight of the term (`Objective.dear` sets it).
    Returns a float32 scalar in nats, the mean over queries with two passages or more ("batchmean"
    where all have); 0 where there is none.
    """
    require_positive("temperature", temperature)
    scores, targets = clean(scores, targets, mask)
    teacher = log_softmax(targets / temperature, mask)
    student = log_softmax(scores / temperature, mask)
    losses = (teacher.exp() * (teacher - student)).sum(dim=1)
    return mean_over(losses, mask.sum(dim=1) >= 2)
