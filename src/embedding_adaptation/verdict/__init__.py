"""Whether an adaptation helped, told without labels or by a few answers."""
