"""What a person sees: plan, progress and tables. Reads results; never imports torch."""
