"""First passes made for a kind of processor: int8 on a CPU, Triton on a GPU."""
