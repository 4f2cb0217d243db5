"""A loss of your own: one function, one entry in the table, and recipes can name it."""

import torch
from torch import Tensor

from dear.losses import LOSSES, Loss, Objective, Term


def hinge(scores: Tensor, targets: Tensor, mask: Tensor, *, margin: float = 1.0) -> Tensor:
    """Pairwise hinge over teacher preferences.

    scores, targets: (B, N).  mask: (B, N) bool, False on padding.  Returns a scalar, the mean over
    the pairs that the teacher orders; 0 where there is none.
    """
    prefers = (targets[:, :, None] > targets[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    short = (margin - (scores[:, :, None] - scores[:, None, :])).clamp(min=0)
    return (short * prefers).sum() / prefers.sum().clamp(min=1)


LOSSES["hinge"] = Loss("hinge", hinge, targets="teacher", paper="Herbrich et al. 2000")

# in a recipe: loss = { main = ["hinge"], alpha = 0.5 }
objective = Objective((Term("hinge", 1.0, {"margin": 0.5}), Term("kl", 0.5)))
teacher = torch.tensor([[3.0, 1.0, -2.0, 0.0]])
mask = torch.tensor([[True, True, True, True]])
scores = torch.zeros(1, 4, requires_grad=True)
for step in range(3):
    loss, parts = objective(scores, judgements=None, teacher=teacher, mask=mask)
    print(
        f"step {step}: {loss.item():.3f}", {name: round(v.item(), 3) for name, v in parts.items()}
    )
    (slope,) = torch.autograd.grad(loss, scores)
    scores = (scores - slope).detach().requires_grad_()
print("order:", scores[0].argsort(descending=True).tolist())
