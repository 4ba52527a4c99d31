import gc

import pytest

from featcache.system.startup import import_tensorflow


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_as_before(collecting: bool) -> None:
    """Importing TensorFlow leaves Python's collector on where it was on, and off where it was off."""
    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        import_tensorflow()
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()
