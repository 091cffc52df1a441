"""The GPU benchmark, of which no GPU is needed to see that it teaches what it draws."""

import numpy as np
import torch

from benchmarks import gpu
from benchmarks.prediction import SIZE, draw_slide


def test_fields_and_labels_of_a_batch_have_one_middle():
    truth = np.random.default_rng(0).integers(1, 7, (1100, 1200))
    seen = torch.from_numpy(truth.astype(np.uint8))[..., None].expand(-1, -1, 3)
    batches = [*gpu._batches(seen, torch.from_numpy(truth), gpu.Size(steps=2, batch=3))]
    assert [fields.shape for fields, _ in batches] == [(3, 3, 3, SIZE, SIZE)] * 2
    for fields, labels in batches:
        for step, m in ((1, 0), (2, 1), (4, 2)):
            inner = slice((SIZE - SIZE // step) // 2, (SIZE + SIZE // step) // 2)
            assert torch.equal(fields[:, m, 0, inner, inner].long(), labels[:, ::step, ::step])


def test_each_blob_has_the_hue_that_stands_out(tmp_path):
    """Its mean colour differs from the slide's most in the channel and the direction that its label says."""
    pixels, truth = gpu.blobs_of(draw_slide(tmp_path / "slide.tif", 1024, 768))
    assert pixels.shape == (768, 1024, 3) and truth.shape == (768, 1024) and set(np.unique(truth)) <= set(range(1, 7))
    mean = pixels.mean((0, 1))
    for label in np.unique(truth):
        apart = pixels[truth == label].mean(0) - mean
        assert np.concatenate([apart, -apart]).argmax() + 1 == label
