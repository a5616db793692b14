"""Reading texts from files and examining them; no Kedro."""
