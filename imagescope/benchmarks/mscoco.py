"""MSCOCO, the 5k test split of 2014: text to image."""

from imagescope.benchmarks.base import Spec
from imagescope.benchmarks.captions import measure, reader

SPEC = Spec(
    name="MSCOCO",
    folder="MSCOCO",
    splits={"test": (25_010, 5000)},
    headline=("Recall@1", "Recall@5", "Recall@10"),
    homepage="https://cocodataset.org",
    licence="CC BY 4.0 (annotations); images under their Flickr licences",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; split of Karpathy "
    "and Fei-Fei, CVPR 2015",
    read=reader("test_5k_mscoco_2014.csv", "images_mscoco_2014_5k_test", "val2014"),
    measure=measure,
    download="hf download nlphuji/mscoco_2014_5k_test_image_text_retrieval --repo-type dataset "
    "--local-dir {root}/MSCOCO; unzip its images to images/",
)
