"""How many replicas there are more while each is replaced in turn."""

from __future__ import annotations

import pytest

from workers.deployments import generators, one_of
from workers.options import GeneratorOptions


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7, 16, 33, 100])
def test_one_more_is_one_more(replicas: int) -> None:
    """By Serve's own arithmetic, which rounds up."""
    assert (one_of(replicas) * replicas + 99) // 100 == 1


@pytest.mark.parametrize(("gpus", "more"), [(0.0, 50), (1.0, 0)])
def test_only_a_cpu_has_room_for_one_more(gpus: float, more: int) -> None:
    """On GPUs the old replica makes room for the new one."""
    options = GeneratorOptions(model="m", replicas=2, gpus=gpus)
    deployment = generators(options)._bound_deployment
    assert deployment._deployment_config.max_surge_percent == more
