"""The whole network on one CPU core, in C: `network.c`, and how it is built and called."""
