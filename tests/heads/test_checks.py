from types import SimpleNamespace

import numpy as np
import pytest

from featcache.errors import OptionError
from featcache.heads import checks

RULES = [
    (checks.whole(1), [1, np.int32(5)], [0, 1.5, "1", None, True]),
    (checks.POSITIVE, [1, 0.5, np.float32(1)], [0, -1.0, float("inf"), float("nan"), "1", True, None]),
    (checks.NOT_NEGATIVE, [0, 2.5], [-1, float("inf"), "0"]),
    (checks.BELOW_ONE, [0, 0.99], [1, -0.1, False, "0.5"]),
    (checks.TRUE_OR_FALSE, [True, np.bool_(False)], [0, "yes", None]),
    (checks.one_of("a", "b"), ["a"], ["c", ["a"], None]),
    (checks.each(checks.whole(1), "sizes"), [3, (), [1, 2], np.array([4])], [0, (1, 0), "3"]),
    (checks.each(checks.POSITIVE, "numbers", least=1), [1.0, (1, 2)], [(), [0]]),
]


@pytest.mark.parametrize(("rule", "right", "wrong"), RULES)
def test_rules(rule: checks.Rule, right: list[object], wrong: list[object]) -> None:
    """Values that follow a rule pass; others are named with what is possible."""
    for value in right:
        checks.check(SimpleNamespace(x=value), {"x": rule})
    for value in wrong:
        with pytest.raises(OptionError, match=r"^x must be .*\. Received: x="):
            checks.check(SimpleNamespace(x=value), {"x": rule})
