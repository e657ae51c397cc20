"""The passes of K-FAC and EK-FAC in operations, beside a gradient over the same rows.

The benchmark `curvature` measures their time, which is below two gradients for the factors of all
three networks: products of a matrix with itself are fast ones.
"""

from __future__ import annotations

import pytest

from benchmarks import curvature

MOST = dict(zip((title for title, _ in curvature.CASES), (2.0, 2.0, 2.3), strict=True))


@pytest.mark.quick("MLP*")
@pytest.mark.parametrize("title, make", curvature.CASES, ids=[case[0] for case in curvature.CASES])
def test_factors_cost_about_two_gradients_and_eigenvalues_less_than_three(title, make):
    found = curvature.operations(make())
    assert found[curvature.KFAC] < MOST[title]
    assert found[curvature.EKFAC] < 3
