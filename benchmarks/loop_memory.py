"""What the encoder sees, remembered: neither slides nor a frozen encoder change from round to round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from unittest.mock import patch

import torch
from torch import Tensor

from dmmn_qp.networks.dmmn_p import DmmnP


@contextmanager
def remembered_encoder() -> Iterator[None]:
    """While it lasts, no image goes through a frozen encoder twice; what comes out is the same to the last bit.

    A long simulation looks at the same slides dozens of times. About 50 MB a mm2 are kept in memory.
    """
    see = DmmnP.see
    memory: dict[str, list[Tensor]] = {}

    def remember(self: DmmnP, images: Sequence[Tensor]) -> list[Tensor]:
        if torch.is_grad_enabled():
            return see(self, images)
        digest = blake2b(str((self.views, torch.is_autocast_enabled("cpu"))).encode())
        for image in images:
            digest.update(f"{tuple(image.shape)} {image.dtype}".encode())
            digest.update(image.contiguous().view(torch.uint8).numpy())
        key = digest.hexdigest()
        if key not in memory:
            memory[key] = see(self, images)
        return list(memory[key])

    with patch.object(DmmnP, "see", remember):
        yield
