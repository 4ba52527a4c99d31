from threadpoolctl import ThreadpoolController

from featcache.heads.threads import SMALL, fitting_threads, one_thread


def pools() -> dict[str, int]:
    """Return the threads of each pool for linear algebra."""
    return {
        pool["filepath"]: pool["num_threads"] for pool in ThreadpoolController().info() if pool["user_api"] == "blas"
    }


def test_one_thread_within_and_as_before_afterwards() -> None:
    """Few rows are fitted on one thread, of many only SciPy's own pool is limited, and all is as before afterwards."""
    fitting_threads(1, 1)
    before = pools()
    for context in (one_thread(), fitting_threads(10, 10)):
        with context:
            assert set(pools().values()) == {1}
    with fitting_threads(SMALL, 2):
        assert all(count == (1 if "scipy.libs" in path else before[path]) for path, count in pools().items())
    assert pools() == before
