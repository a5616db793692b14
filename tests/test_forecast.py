from __future__ import annotations

import pytest

from embedding_adaptation.forecast import looks, seconds_left


@pytest.mark.parametrize(("steps", "every", "count"), [(24, 4, 7), (25, 4, 8), (1, 4, 2), (3, 1, 4), (0, 4, 1)])
def test_training_looks_before_the_first_step_and_after_the_last(steps, every, count):
    assert looks(steps, every) == count
    seen = {0, *(step for step in range(1, steps + 1) if step % every == 0 or step == steps)}
    assert len(seen) == count


@pytest.mark.parametrize(
    ("done", "total", "seconds", "left"),
    [(10, 100, 4.0, 36.0), (0, 100, 4.0, None), (10, 100, 1.9, None), (90, 100, 40.0, None), (120, 100, 40.0, None)],
)
def test_the_rest_takes_its_share_of_what_was_measured(done, total, seconds, left):
    assert seconds_left(done, total, seconds) == left
