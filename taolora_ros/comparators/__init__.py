"""Other ways to make the same network small, measured beside ours (METHOD section 7)."""
