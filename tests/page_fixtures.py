"""What pages are made of."""

from __future__ import annotations

import pandas as pd

ATTENTION = pd.DataFrame(
    [
        ("secretword's <b>bus</b>", "sink", "<s>", -1, -1, 0.5, 0.4, False),
        ("secretword's <b>bus</b>", "text", "secretword's", 0, 12, 0.1, 0.3, False),
        ("secretword's <b>bus</b>", "text", "<", 13, 14, 0.2, 0.1, False),
        ("secretword's <b>bus</b>", "text", "b", 14, 15, 0.0, 0.0, False),
        ("secretword's <b>bus</b>", "self", ":", -1, -1, 0.2, 0.2, False),
    ],
    columns=["text", "part", "word", "start", "end", "base", "adapted", "cut"],
)
