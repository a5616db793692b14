"""What is said of attention once it is recorded: shares of words and spans, comparisons, statistics."""
