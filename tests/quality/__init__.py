"""Quality benchmarks: trained models served and measured beside the bounds that they must keep."""
