"""The compiler: from a multi-exit network to a bundle, one pass after another."""
