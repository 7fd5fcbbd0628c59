"""The embedded data set of detection: 64 photographs of blood cells of BCCD (MIT licence, see `embedded/bccd`)."""

from pathlib import Path

from aa_flax.data.sets.coco_json import CocoJson


class BccdSubset(CocoJson):
    """48 training and 16 test photographs of BCCD at 320 × 240 pixels; `embedded/make_bccd.py` chose them."""

    prefix = ""
    stored_name = "aa_bccd_subset"
    description = "A subset of BCCD: 48 training and 16 test photographs of blood cells with boxes of 3 classes."
    homepage = "https://github.com/Shenggan/BCCD_Dataset"

    def __init__(self) -> None:
        super().__init__("bccd_subset", Path(__file__).parent / "embedded" / "bccd")
