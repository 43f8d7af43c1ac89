from tests.train.conftest import tiny_folders

__all__ = ["tiny_folders"]
