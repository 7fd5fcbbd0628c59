"""A data set of one's own: a folder of image files for each class.

    FOLDER/train/CLASS/*.jpg and FOLDER/val/CLASS/*.jpg      splits by the names of their folders: train, val, test, ...
    FOLDER/CLASS/*.jpg                                       one split, train

`folder_layout` says what else is known. Classes are the names of the folders, sorted. Images are stored as
`stored_image` says, so that training sees an image as `aa_flax.predict` does.

Examples are stored in an order that is always the same: at random, or where there is one split only, so that any part
of it has its share of each class (`even_order`): `train[:80%]` and `train[80%:]` are a stratified split.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from aa_flax.data.errors import DataError
from aa_flax.data.sets.builder import Example, Origin, names_and_sizes, stored_name_of_folder
from aa_flax.data.sets.even_order import EVEN_VERSION, even_order, random_order
from aa_flax.data.sets.findings import LEFT_OUT, SKIPPING, Findings
from aa_flax.data.sets.folder_layout import Classes, lay_out, name_of
from aa_flax.data.sets.repetitions import Repetitions
from aa_flax.data.sets.stored_image import UnreadableError, stored_image
from aa_flax.literal import quoted

PREFIX = "image_folder/"


class ImageFolder(Origin):
    """The data set in `folder`, which is named `image_folder/LABEL`.

    Args:
        name: `image_folder/LABEL`.
        folder: the folder of the images.
        skip_damaged: leave out images that cannot be decoded; without it, they are an error that names them all.

    Raises:
        DataError: the name does not have that form, or the folder does not have the layout of this module's docstring.
    """

    description = "A folder of image files for each class."
    homepage = ""
    image_shape = (None, None, 3)
    encoding = None

    def __init__(self, name: str, folder: Path, skip_damaged: bool = False):
        self.stored_name = stored_name_of_folder(name, PREFIX)
        self._folder, self._skip_damaged = folder, skip_damaged
        layout = lay_out(folder)
        self._images, self._left_out = layout.splits, layout.left_out
        self._names = list(self._images["train"])
        if len(self._images) == 1:
            self.version = EVEN_VERSION
        self._findings, self._same = Findings(folder), Repetitions()

    @property
    def files(self) -> list[Path]:
        return [path for classes in self._images.values() for paths in classes.values() for path in paths]

    @property
    def class_names(self) -> list[str]:
        return self._names

    @property
    def notes(self) -> list[str]:
        """Return lines about files that are left out, as no images or damaged, and images that occur more than once."""
        return [self._left_out] * bool(self._left_out) + [f"{self._folder}: {line}" for line in self._findings.notes]

    def checksums(self) -> dict[str, str]:
        """Return, for each class in each split, a hash of its files' names and sizes, see `names_and_sizes`."""
        return {
            f"{split}/{name}": names_and_sizes(paths)
            for split, classes in self._images.items()
            for name, paths in classes.items()
        }

    def splits(self) -> Mapping[str, Iterator[Example]]:
        self._findings, self._same = Findings(self._folder), Repetitions()
        last = list(self._images)[-1]
        return {split: self._examples(split, classes, split == last) for split, classes in self._images.items()}

    def _examples(self, split: str, classes: Classes, last: bool) -> Iterator[Example]:
        """Yield the examples of a split that can be decoded; raise DataError for all that cannot at the end of all."""
        listed = [(path, label) for label, name in enumerate(self._names) for path in classes[name]]
        found, stored = set(), 0
        alone = len(self._images) == 1
        for place in even_order([label for _, label in listed]) if alone else random_order(len(listed)):
            path, label = listed[place]
            try:
                example = _encoded(path), label
            except DataError as error:
                kind = "unreadable" if isinstance(error, UnreadableError) else "damaged"
                if self._skip_damaged:
                    self._findings.note(f"{kind} images, left out", str(error), LEFT_OUT)
                else:
                    self._findings.fault(kind, str(error))
                continue
            found.add(label)
            self._same.add(example[0], split, stored, f"{self._names[label]}/{name_of(path)}")
            stored += 1
            yield example
        if last:
            self._same.tell(self._findings)
            self._findings.require_none(f"of {len(self.files):,} images; {SKIPPING} leaves them out")
        empty = [name for label, name in enumerate(self._names) if label not in found]
        if empty and self._skip_damaged:
            raise DataError(f"{self._folder}: no image of {split!r} can be decoded in the class {quoted(empty)}")


def _encoded(path: Path) -> bytes:
    return stored_image(path).content
