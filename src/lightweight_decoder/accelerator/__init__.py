"""Which accelerator really runs kernels."""
