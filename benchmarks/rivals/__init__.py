"""Other ways to have numpy functions run elsewhere, each as a contender; left out where it is not installed."""
