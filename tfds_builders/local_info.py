"""The description of a dataset that is built here alone."""

import tensorflow_datasets as tfds


class LocalInfo(tfds.core.DatasetInfo):
    """`tfds.core.DatasetInfo` that does not look for a description made by others.

    Where a dataset is not prepared yet, TFDS asks its own bucket for one, and leaves an empty folder in the
    directory of temporary files each time.
    """

    def initialize_from_bucket(self) -> None:
        """Nothing: these datasets are in no bucket."""
