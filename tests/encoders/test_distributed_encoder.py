"""An encoder on a cluster; the cluster itself is in tests/engines/test_distributed.py."""

import pytest
from PIL import Image

from imagescope.encoders.distributed import DistributedEncoder
from imagescope.errors import UserError
from imagescope.models.images import ABSENT
from imagescope.records import Item


def test_a_worker_that_does_not_see_the_images_is_no_fault_of_theirs(
    clip_config, tmp_path, monkeypatch
):
    """A machine of the cluster lacks the folder: its images are not put down as unreadable."""
    here = tmp_path / "here.png"
    Image.new("RGB", (8, 8)).save(here)

    class Elsewhere:
        def map(self, chunks):
            yield 0, [f"{item.images[0]}: {ABSENT}" for item, _ in chunks[0]]

    encoder = DistributedEncoder(clip_config)
    monkeypatch.setattr(encoder, "_workers", Elsewhere)
    with pytest.raises(UserError, match="a worker does not see this file"):
        encoder.embed([Item(images=(here,))], "gallery")
    _, reasons = encoder.embed([Item(images=(tmp_path / "nowhere.png",))], "gallery")
    assert ABSENT in reasons[0]
