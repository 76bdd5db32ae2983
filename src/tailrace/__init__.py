"""Tailrace: run anything long, watch it live, lose nothing."""
