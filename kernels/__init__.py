"""
Triton kernels of the TAO layer, one family a file, each beside its plain reference.

The folder lies at the root of the repository and is imported as `taolora_ros.kernels` through
the relative symlink `taolora_ros/kernels`; a top-level module of this name would clash with
others. Importing it needs neither Triton nor a GPU: both are asked for where they are used.
"""
