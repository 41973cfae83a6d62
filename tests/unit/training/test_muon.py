"""Muon's update against the singular value decomposition."""

from __future__ import annotations

import pytest
import torch

from hpc.training.muon import MOMENTUM, RMS_OF_ADAMW, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (32, 8)])
def test_the_update_has_the_directions_of_the_gradient_and_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ orthogonal(matrix) @ v.mT
    values = inner.diagonal()
    assert values.min() > 0.6 and values.max() < 1.3
    assert (inner - values.diag()).abs().max() < 1e-4


def test_matrices_move_by_muon_and_the_rest_as_by_adamw() -> None:
    torch.manual_seed(0)
    matrix, vector = (torch.nn.Parameter(torch.randn(shape)) for shape in ((6, 12), (6,)))
    alone = torch.nn.Parameter(vector.detach().clone())
    before = matrix.detach().clone()
    groups = [{"params": [matrix, vector], "lr": 0.01, "weight_decay": 0.1}]
    ours = Muon(groups, lambda parameter: parameter is matrix)
    theirs = torch.optim.AdamW([alone], lr=0.01, weight_decay=0.1)
    matrix.grad, gradient = torch.randn(6, 12), torch.randn(6)
    vector.grad, alone.grad = gradient.clone(), gradient.clone()
    ours.step()
    theirs.step()
    assert torch.equal(vector, alone)
    wanted = before * (1 - 0.01 * 0.1) - 0.01 * RMS_OF_ADAMW * 12**0.5 * orthogonal(matrix.grad * (1 + MOMENTUM))
    assert torch.allclose(matrix, wanted, atol=1e-6)
    assert matrix.grad is not None
