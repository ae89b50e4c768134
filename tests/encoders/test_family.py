"""Families of weights, by checkpoints' names."""

import pytest

from imagescope.benchmarks.published import read
from imagescope.encoders.family import family


@pytest.mark.parametrize(
    "model, expected",
    [
        ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "openclip/laion2b"),
        ("/models/CLIP-ViT-B-32-laion2B-s34B-b79K/", "openclip/laion2b"),
        ("openai/clip-vit-large-patch14-336", "openai"),
        ("timm/vit_large_patch14_clip_224.openai", "openai"),
        ("google/siglip2-so400m-patch14-384", "siglip2"),
        ("google/siglip-base-patch16-224", "siglip"),
        ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "openclip/datacomp"),
        ("someone/clip-vit-large-patch14-tuned", None),
        ("data/tiny/models/encoder", None),
    ],
)
def test_a_checkpoint_names_its_family(model, expected):
    assert family(model) == expected


def test_the_published_checkpoints_are_of_the_family_their_figures_are_quoted_for():
    families = {"openai": "openai", "laion2b": "openclip/laion2b"}
    weights = {name: kind for name, (_, kind) in read().checkpoints.items() if kind}
    assert weights and {family(name) for name in weights} == set(families.values())
    assert all(family(name) == families[kind] for name, kind in weights.items())
