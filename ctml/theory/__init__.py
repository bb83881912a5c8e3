"""Closed forms, constants and measured rates: one file per paper, `rates` for all."""
