from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small random model per task."""
    return {
        "causal_lm": tiny.save_llama(tmp_path_factory.mktemp("llama")),
        "sequence_classification": tiny.save_bert(tmp_path_factory.mktemp("bert")),
    }
