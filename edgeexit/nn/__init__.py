"""Multi-exit networks: attach exits to any module, heads, and the zoo."""
