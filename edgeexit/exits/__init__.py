"""Thresholds: searched on logits that were seen, and kept as operating points."""
