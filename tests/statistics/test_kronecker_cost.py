"""The passes of K-FAC and EK-FAC in operations, beside a gradient over the same rows."""

from __future__ import annotations

import pytest

from benchmarks import curvature


@pytest.mark.quick("MLP*")
@pytest.mark.parametrize("title, make", curvature.CASES, ids=[case[0] for case in curvature.CASES])
def test_factors_cost_at_most_two_gradients(title, make):
    found = curvature.operations(make())
    assert found[curvature.KFAC] < 2
    assert found[curvature.EKFAC] < 3
