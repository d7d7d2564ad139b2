"""Models: cells and heads in torch, scaling, the package on disk, the repository, and the float64 reference."""
