"""LoRA-Ultra: what a running network learns from feedback, in two low-rank tiers (METHOD 6)."""
