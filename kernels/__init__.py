"""
Triton kernels of the TAO layer, one family a file, each beside its plain reference.

    linear, quantize, gemv, join    the layer: fused; its parts; for few rows; on two streams
    bit_planes                      for few rows by popcounts, an ablation
    attention, convolution          the mixers             patches, heads   both ends
    window, shared_window, tile     a whole window         gate             the transient detector
    layout, window_layout           how weights lie        int4, rows, launch   what all share

The folder lies at the root of the repository and is imported as `taolora_ros.kernels` through
the relative symlink `taolora_ros/kernels`; a top-level module of this name would clash with
others. Importing it needs neither Triton nor a GPU: both are asked for where they are used.
"""
