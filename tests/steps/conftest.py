import pytest
from step_fakes import SpyContext


@pytest.fixture
def context() -> SpyContext:
    return SpyContext()
