"""On which examples a network is judged: the validation patches, and of the paper's preset deformed copies of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmmn_qp.labels.draws import Draw, ElasticRule
from dmmn_qp.labels.patches import PatchRef


def validation_draws(validation: Sequence[PatchRef], balancing: ElasticRule | None, seed: int) -> list[Draw]:
    """Every validation patch as it is, in its order; then its deformed copies, which are the same in every epoch.

    Args:
        validation: The patches.
        balancing: How many copies a patch of each class has (paper, Table 1); None for no copies.
        seed: Seed of the run.
    """
    unchanged = [Draw(i, seed=0) for i in range(len(validation))]
    if balancing is None:
        return unchanged
    copied = np.repeat(np.arange(len(validation)), balancing.copies_of(validation))
    seeds = np.random.default_rng([seed, 0]).integers(2**63 - 1, size=copied.size)  # epochs count from 1
    return unchanged + [Draw(int(i), int(s), deformed=True) for i, s in zip(copied, seeds, strict=True)]
