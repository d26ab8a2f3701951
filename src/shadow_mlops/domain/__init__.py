"""The words of the platform: events, results, outcomes, models, deployments, errors. No I/O."""
