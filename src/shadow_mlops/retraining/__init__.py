"""When to retrain, and how it is set going: checks of live drift to triggers, triggers to one run each."""
