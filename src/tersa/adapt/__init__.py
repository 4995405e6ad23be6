"""Fitting a network to a machine: latency tables, NetAdapt, a solver for all widths at once, scores."""
