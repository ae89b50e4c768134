"""Flickr30K, the 1k test split: text to image."""

from imagescope.benchmarks.base import Spec
from imagescope.benchmarks.captions import measure, reader

SPEC = Spec(
    name="Flickr30K",
    folder="Flickr30K",
    splits={"test": (5000, 1000)},
    headline=("Recall@1", "Recall@5", "Recall@10"),
    homepage="https://shannon.cs.illinois.edu/DenotationGraph/",
    licence="research and education only; images from Flickr",
    citation="Young et al., From image descriptions to visual denotations, TACL 2014; split of "
    "Karpathy and Fei-Fei, CVPR 2015",
    read=reader("test_1k_flickr.csv", "images_flickr_1k_test", "flickr30k-images"),
    measure=measure,
    download="hf download nlphuji/flickr_1k_test_image_text_retrieval --repo-type dataset "
    "--local-dir {root}/Flickr30K; unzip its images to images/",
)
