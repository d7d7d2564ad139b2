"""The step: what the cell sees, cell and head, what is finite committed; on CPU by C or torch, on CUDA by graphs."""
