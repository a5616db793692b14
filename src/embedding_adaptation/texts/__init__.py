"""Texts from files and what can be said of them; no Kedro."""
