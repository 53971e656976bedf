"""What each slot of a training sample is to it: absent, target or given; and at which time of the flow it stands.

Shape suffixes: B batch, S slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

ABSENT, TARGET, GIVEN = 0, 1, 2
ROLES = 3


def draw_roles(
    present_BS: Tensor, *, joint_share: float, given_share: float, absent_share: float, rng: torch.Generator | None
) -> Tensor:
    """Roles (B, S) int64 of the slots that are present; one that is not is ABSENT, and every row has a target.

    In a share `joint_share` of the rows all present slots are targets. In the others one of them, drawn evenly, is a
    target, and each further one is GIVEN, ABSENT or a TARGET with the shares that are given and what is left of 1.
    A row in which nothing is present is all ABSENT.
    """
    count, slots = present_BS.shape
    device = present_BS.device
    joint_B1 = torch.rand((count, 1), generator=rng, device=device) < joint_share
    draw_BS = torch.rand((count, slots), generator=rng, device=device)
    roles_BS = torch.full_like(draw_BS, TARGET, dtype=torch.long)
    roles_BS[draw_BS < given_share + absent_share] = ABSENT
    roles_BS[draw_BS < given_share] = GIVEN
    lots_BS = torch.rand((count, slots), generator=rng, device=device).masked_fill(~present_BS, -1.0)
    roles_BS.scatter_(1, lots_BS.argmax(1, keepdim=True), TARGET)
    roles_BS = torch.where(joint_B1, TARGET, roles_BS)
    return roles_BS.masked_fill(~present_BS, ABSENT)


def draw_times(roles_BS: Tensor, *, shared_share: float, rng: torch.Generator | None) -> Tensor:
    """Times (B, S) in [0, 1]: 1 (data) for what is given, 0 (noise) for what is absent, logit-normal for targets.

    In a share `shared_share` of the rows the targets have one time together, as they have in sampling; in the others
    each has its own (Bao et al. 2023, arXiv:2303.06555). Logit-normal: Esser et al. 2024, arXiv:2403.03206.
    """
    count, slots = roles_BS.shape
    device = roles_BS.device
    own_BS = torch.randn((count, slots), generator=rng, device=device).sigmoid()
    shared_B1 = torch.rand((count, 1), generator=rng, device=device) < shared_share
    t_BS = torch.where(shared_B1, own_BS[:, :1], own_BS)
    t_BS = t_BS.masked_fill(roles_BS == GIVEN, 1.0)
    return t_BS.masked_fill(roles_BS == ABSENT, 0.0)
